"""Whether a service loads, serves or drains, and how work in flight hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import Enum

from shared.errors import unavailable


class Phase(Enum):
    """The phases of a service's life."""

    LOADING = "loading"
    SERVING = "serving"
    DRAINING = "draining"


class Lifecycle:
    """Shared by the server, which moves it on, and the work in flight, which it interrupts.

    Draining begins by ending :meth:`intake`: no new frames are read. When the grace period is
    over, :meth:`work` still in flight ends with an error that tells the peer to send it again.
    """

    def __init__(self) -> None:
        self.phase = Phase.LOADING
        self.in_flight = 0
        self._intakes: set[asyncio.Timeout] = set()
        self._works: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._calls = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def serve(self) -> None:
        """Loading is over."""
        self.phase = Phase.SERVING

    async def drain(self, grace_seconds: float) -> None:
        """Takes nothing new, waits for what is in flight, interrupts it after the grace period."""
        self.phase = Phase.DRAINING
        _expire(self._intakes)
        try:
            async with asyncio.timeout(grace_seconds):
                await self._idle.wait()
        except TimeoutError:
            _expire(self._works)

    @contextmanager
    def call(self) -> Iterator[None]:
        """A call of the service, from beginning to end."""
        self._calls += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._quiet.set()

    async def ended(self, seconds: float) -> None:
        """Waits until no call is open, at most so many seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._quiet.wait(), seconds)

    @asynccontextmanager
    async def intake(self) -> AsyncIterator[asyncio.Timeout]:
        """Reading frames; left early, without an error, when draining begins."""
        try:
            async with asyncio.timeout(0 if self.phase is Phase.DRAINING else None) as limit:
                self._intakes.add(limit)
                yield limit
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            self._intakes.discard(limit)

    @asynccontextmanager
    async def work(self) -> AsyncIterator[None]:
        """Work on a frame.

        Raises:
            FrameError: If the grace period ends before the work does.
        """
        self.in_flight += 1
        self._idle.clear()
        try:
            async with asyncio.timeout(None) as limit:
                self._works.add(limit)
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise unavailable("the service stopped before the frame was done") from None
        finally:
            self._works.discard(limit)
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()


def _expire(limits: set[asyncio.Timeout]) -> None:
    now = asyncio.get_running_loop().time()
    for limit in limits:
        limit.reschedule(now)
