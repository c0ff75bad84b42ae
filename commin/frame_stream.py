"""Frames over a bidirectional call that may be lost: unanswered ones are sent again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.rpc import status_pb2
from grpc import StatusCode

from commin.backoff import Backoff
from commin.transport import RETRYABLE
from commin.v1 import frame_pb2

log = logging.getLogger(__name__)


class Sized(Protocol):
    """A request: a message or a parcel of ``commin.wire``."""

    def ByteSize(self) -> int:  # noqa: N802  # protobuf's name
        """How many bytes are sent."""


Request = TypeVar("Request", bound=Sized)
OnProgress = Callable[[frame_pb2.FrameEvent], None]

UNAVAILABLE = StatusCode.UNAVAILABLE.value[0]


@dataclass(eq=False)
class _Exchange(Generic[Request]):
    """A frame that waits for its answer."""

    make_request: Callable[[], Request]
    on_progress: OnProgress
    answer: asyncio.Future[frame_pb2.FrameEvent]
    request_bytes: int = 0


class FrameStream(Generic[Request]):
    """One session with the next hop, which outlives the calls that carry it.

    Frames are independent of each other and a frame sent twice is the same frame (its draws
    depend on its seed and id alone), so whatever is unanswered when a call breaks is sent again
    on the next one.

    Arguments:
        open_call: Starts the bidirectional call.
        peer: What log lines and errors call the other side.
        give_up_seconds: How long the link may stay lost before its frames fail; None to leave
            that to the frames' own deadlines.
        on_resend: Told of every frame that is sent again.

    Attributes:
        trouble: Why the link is lost at present; empty when it is not.
    """

    def __init__(
        self,
        open_call: Callable[[], grpc.aio.StreamStreamCall[Request, Any]],
        peer: str,
        give_up_seconds: float | None = None,
        on_resend: Callable[[], None] = lambda: None,
    ) -> None:
        self._open_call = open_call
        self._peer = peer
        self._on_resend = on_resend
        self._give_up_seconds = give_up_seconds
        self._pending: dict[int, _Exchange[Request]] = {}
        self._unsent: asyncio.Queue[int | None] = asyncio.Queue()
        self._closing = False
        self._abandoned = False
        self._backoff = Backoff()
        self._lost_since: float | None = None
        self._resends: set[asyncio.Task[None]] = set()
        self.trouble = ""

    async def exchange(
        self, frame_id: int, make_request: Callable[[], Request], on_progress: OnProgress
    ) -> frame_pb2.FrameEvent:
        """Sends a frame and waits for its last event, within :meth:`running`.

        Arguments:
            frame_id: Unique among the frames that wait.
            make_request: Makes the request, anew each time that it is sent.
            on_progress: Given the frame's progress events.

        Returns:
            The result or error.
        """
        answer: asyncio.Future[frame_pb2.FrameEvent] = asyncio.get_running_loop().create_future()
        self._pending[frame_id] = _Exchange(make_request, on_progress, answer)
        self._unsent.put_nowait(frame_id)
        try:
            return await answer
        finally:
            self._abandoned |= not answer.done() or answer.cancelled()
            del self._pending[frame_id]
            if self._closing:
                self._unsent.put_nowait(None)  # the writer looks whether this was the last

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs the stream within the block.

        Leaving it ends the call: in order, or by cancelling it if the peer still works on a
        frame whose answer nobody waits for any more.
        """
        async with asyncio.TaskGroup() as group:
            running = group.create_task(self._run())
            yield
            self._closing = True
            self._unsent.put_nowait(None)
            if self._abandoned:
                running.cancel()

    async def _run(self) -> None:
        """Keeps a call open while there are frames; returns once closing and none is left."""
        while await self._has_work():
            try:
                await self._converse()
            except grpc.aio.AioRpcError as error:
                self._lost(error.code(), error.details() or "no details")
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                self._lost(StatusCode.CANCELLED, "the peer cancelled the call")
            if self._pending:
                await self._backoff.wait()

    async def _has_work(self) -> bool:
        while not self._pending:
            if self._closing:
                return False
            frame_id = await self._unsent.get()
            if frame_id in self._pending:
                break
        return True

    async def _converse(self) -> None:
        """One call, from the first frame to its end."""
        self._unsent = asyncio.Queue()
        for frame_id in self._pending:
            self._unsent.put_nowait(frame_id)
        if self._closing:
            self._unsent.put_nowait(None)
        call = self._open_call()
        try:
            # A peer that turns the call away says why; one that is written to is not heard.
            await call.wait_for_connection()
            self._connected()
            await self._talk(call)
        finally:
            call.cancel()

    async def _talk(self, call: grpc.aio.StreamStreamCall[Request, Any]) -> None:
        writer = asyncio.create_task(self._write(call))
        try:
            async for response in call:
                self._backoff.reset()
                self._take(response.event)
        finally:
            writer.cancel()
            await asyncio.wait([writer])
            if not writer.cancelled():
                writer.result()

    async def _write(self, call: grpc.aio.StreamStreamCall[Request, Any]) -> None:
        # The reader sees why a call broke; the writer only has to stop.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while self._pending or not self._closing:
                frame_id = await self._unsent.get()
                if frame_id in self._pending:
                    await self._send(call, self._pending[frame_id])
            await call.done_writing()

    async def _send(
        self, call: grpc.aio.StreamStreamCall[Request, Any], exchange: _Exchange[Request]
    ) -> None:
        if exchange.request_bytes:
            self._on_resend()
        request = exchange.make_request()
        exchange.request_bytes = request.ByteSize()
        await call.write(request)

    def _take(self, event: frame_pb2.FrameEvent) -> None:
        exchange = self._pending.get(event.frame_id)
        if exchange is None or exchange.answer.done():
            return  # its deadline passed meanwhile
        if event.WhichOneof("event") == "progress":
            exchange.on_progress(event)
        elif event.error.code == UNAVAILABLE and self._patient():
            self._send_again(event.frame_id)
        else:
            exchange.answer.set_result(event)

    def _send_again(self, frame_id: int) -> None:
        """The peer could not finish the frame for now; gives it some time."""

        async def later() -> None:
            await asyncio.sleep(Backoff(first_seconds=0.5).next_wait())
            self._unsent.put_nowait(frame_id)

        task = asyncio.create_task(later())
        self._resends.add(task)
        task.add_done_callback(self._resends.discard)

    def _connected(self) -> None:
        if self.trouble:
            log.info("reached %s again", self._peer)
        self._lost_since, self.trouble = None, ""

    def _patient(self) -> bool:
        if self._give_up_seconds is None or self._lost_since is None:
            return True
        return time.monotonic() - self._lost_since < self._give_up_seconds

    def _lost(self, code: StatusCode, details: str) -> None:
        level = logging.DEBUG if self.trouble else logging.WARNING  # once for each loss
        self.trouble = f"{self._peer}: {code.name}: {details}"
        log.log(level, "lost %s: %s: %s", self._peer, code.name, details)
        if code in RETRYABLE or is_cut(code, details):
            self._lost_since = self._lost_since or time.monotonic()
            if not self._patient():
                self._fail(list(self._pending), StatusCode.UNAVAILABLE)
        elif code is StatusCode.RESOURCE_EXHAUSTED and self._pending:
            # A message over the peer's limit ended the call. If any is over, the largest is.
            largest = max(self._pending, key=lambda each: self._pending[each].request_bytes)
            self._fail([largest], StatusCode.INVALID_ARGUMENT)
        else:
            self._fail(list(self._pending), code)

    def _fail(self, frame_ids: list[int], code: StatusCode) -> None:
        for frame_id in frame_ids:
            status = status_pb2.Status(code=code.value[0], message=self.trouble)
            answer = self._pending[frame_id].answer
            if not answer.done():
                answer.set_result(frame_pb2.FrameEvent(frame_id=frame_id, error=status))


def is_cut(code: StatusCode, details: str) -> bool:
    """Whether a call broke while a message was being written.

    grpc.aio then hides what the peer said behind an error of its own.
    """
    return code is StatusCode.INTERNAL and details == "Internal error from Core"


def is_cancelled() -> bool:
    """Whether the current task is being cancelled.

    A call that its *peer* cancelled raises ``CancelledError`` too, in a task nobody cancelled.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
