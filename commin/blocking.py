"""The client for programs without an event loop: the async one, run on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, TypeVar

from commin.client import AsyncLink, Images, OnProgress, configure_channel_async
from commin.results import Outcome
from commin.transport import MAX_MESSAGE_BYTES, PLAINTEXT, TLSFiles
from commin.v1 import describe_pb2

Value = TypeVar("Value")


class LoopThread:
    """An event loop on a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="commin", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Runs a coroutine and waits for it; an interruption of the wait cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Link:
    """A link, seen from its client; made by :func:`commin.connect`."""

    def __init__(self, link: AsyncLink) -> None:
        self._link = link
        self._loop = LoopThread()
        try:
            self._loop.run(link.__aenter__())
        except BaseException:
            self._loop.close()
            raise

    @property
    def target(self) -> str:
        """The transmitter's address."""
        return self._link.target

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._loop.run(self._link.__aexit__(None, None, None))
        self._loop.close()

    def describe(self) -> describe_pb2.LinkDescription:
        """See :meth:`AsyncLink.describe`."""
        return self._loop.run(self._link.describe())

    def send(
        self,
        images: Images,
        *,
        snr_db: float | None = None,
        told_snr_db: float | None = None,
        seed: int | None = None,
        restorer: str | None = None,
        steps: int | None = None,
        preview_every: int | None = None,
        timeout: float | None = None,
        bundle: str | None = None,
        on_progress: OnProgress | None = None,
        ordered: bool = False,
        first_frame_id: int = 0,
    ) -> Generator[Outcome, None, None]:
        """See :meth:`AsyncLink.send`; ``on_progress`` is called on the link's own thread."""
        outcomes = self._link.send(
            images,
            snr_db=snr_db,
            told_snr_db=told_snr_db,
            seed=seed,
            restorer=restorer,
            steps=steps,
            preview_every=preview_every,
            timeout=timeout,
            bundle=bundle,
            on_progress=on_progress,
            ordered=ordered,
            first_frame_id=first_frame_id,
        )

        one_at_a_time = asyncio.Lock()  # an interrupted wait may still be on its way out

        async def following() -> Outcome | None:
            async with one_at_a_time:
                return await anext(outcomes, None)

        async def close() -> None:
            async with one_at_a_time:
                await outcomes.aclose()

        try:
            while (outcome := self._loop.run(following())) is not None:
                yield outcome
        finally:
            self._loop.run(close())


def connect(
    target: str,
    *,
    tls: TLSFiles = PLAINTEXT,
    connect_seconds: float = 10.0,
    reconnect_seconds: float = 30.0,
    max_in_flight: int = 32,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> Link:
    """Connects to a link.

    Arguments:
        target: The transmitter's address, ``"host:port"``.
        tls: What to trust and to show.
        connect_seconds: How long to wait for a connection.
        reconnect_seconds: How long a connection may stay lost before frames in flight fail.
        max_in_flight: Most images sent and not yet returned.
        max_message_bytes: Largest message to send or accept; that of the transmitter.

    Returns:
        The link; a context manager that closes it.

    Raises:
        LinkError: If nothing answers there.
        OSError: If a TLS file cannot be read.
    """
    link = AsyncLink(
        target,
        tls=tls,
        connect_seconds=connect_seconds,
        reconnect_seconds=reconnect_seconds,
        max_in_flight=max_in_flight,
        max_message_bytes=max_message_bytes,
    )
    return Link(link)


def connect_async(
    target: str,
    *,
    tls: TLSFiles = PLAINTEXT,
    connect_seconds: float = 10.0,
    reconnect_seconds: float = 30.0,
    max_in_flight: int = 32,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> AsyncLink:
    """The same for programs with an event loop; connects on ``async with``."""
    return AsyncLink(
        target,
        tls=tls,
        connect_seconds=connect_seconds,
        reconnect_seconds=reconnect_seconds,
        max_in_flight=max_in_flight,
        max_message_bytes=max_message_bytes,
    )


def configure_channel(
    target: str,
    *,
    default_snr_db: float | None = None,
    tls: TLSFiles = PLAINTEXT,
    connect_seconds: float = 10.0,
) -> describe_pb2.ChannelDescription:
    """See :func:`commin.configure_channel_async`."""
    loop = LoopThread()
    try:
        return loop.run(
            configure_channel_async(
                target, default_snr_db=default_snr_db, tls=tls, connect_seconds=connect_seconds
            )
        )
    finally:
        loop.close()
