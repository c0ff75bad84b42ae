"""One bidirectional stream of frames, bounded: frames in, events out as they come."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import grpc

from commin.transport import SESSION_KEY
from commin.v1 import frame_pb2
from shared.errors import FrameError, internal, invalid
from shared.lifecycle import Lifecycle
from shared.telemetry import Telemetry

log = logging.getLogger(__name__)

Emit = Callable[[frame_pb2.FrameEvent], None]
SESSION_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Framed(Protocol):
    """A request about one frame."""

    @property
    def frame_id(self) -> int:
        """The frame's id."""


Request = TypeVar("Request", bound=Framed)


class Outbox:
    """Events on their way to a peer that may be slow.

    A frame has at most one progress event and one last event in it, so the frames in flight
    bound it: newer progress replaces older, which keeps its preview if the newer has none. Last
    events are never lost.
    """

    def __init__(self) -> None:
        self._last: deque[frame_pb2.FrameEvent] = deque()
        self._progress: dict[int, frame_pb2.FrameEvent] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def put_progress(self, event: frame_pb2.FrameEvent) -> None:
        """Leaves a progress event."""
        older = self._progress.pop(event.frame_id, None)
        if older and older.progress.HasField("preview") and not event.progress.HasField("preview"):
            event.progress.preview.CopyFrom(older.progress.preview)
        self._progress[event.frame_id] = event
        self._changed.set()

    def put_last(self, event: frame_pb2.FrameEvent) -> None:
        """Leaves a frame's result or error; progress still here is out of date."""
        self._progress.pop(event.frame_id, None)
        self._last.append(event)
        self._changed.set()

    def close(self) -> None:
        """Nothing more will be put."""
        self._closed = True
        self._changed.set()

    async def events(self) -> AsyncIterator[frame_pb2.FrameEvent]:
        """Takes events, results and errors first, until closed and empty."""
        while True:
            if self._last:
                yield self._last.popleft()
            elif self._progress:
                yield self._progress.pop(next(iter(self._progress)))
            elif self._closed:
                return
            else:
                self._changed.clear()
                await self._changed.wait()


async def always_room() -> None:
    """Reads on at once."""


@dataclass(frozen=True)
class SessionLimits:
    """How much one stream may hold.

    Attributes:
        frames: Frames in flight, sent results that the peer has not taken yet included.
        room: Awaited before each read: a service-wide limit.
    """

    frames: int
    room: Callable[[], Awaitable[None]] = always_room


class Session(Generic[Request]):
    """Runs the frames of one stream side by side.

    When the limit of frames is reached the stream is not read, which slows its sender down.

    Arguments:
        handle: Serves one frame: gets the request and a function for progress events, returns
            the last event or raises :class:`FrameError`.
        respond: Wraps an event in the stream's response message.
        limits: How much the stream may hold.
        lifecycle: The service's.
        telemetry: The service's.
        name: What log lines call the session.
    """

    def __init__(
        self,
        handle: Callable[[Request, Emit], Awaitable[frame_pb2.FrameEvent]],
        respond: Callable[[frame_pb2.FrameEvent], Any],
        *,
        limits: SessionLimits,
        lifecycle: Lifecycle,
        telemetry: Telemetry,
        name: str,
    ) -> None:
        self._handle = handle
        self._respond = respond
        self._limits = limits
        self._places = asyncio.Semaphore(limits.frames)
        self._lifecycle = lifecycle
        self._telemetry = telemetry
        self._name = name
        self._outbox = Outbox()
        self._in_flight: set[int] = set()

    async def run(
        self, requests: AsyncIterator[Request], context: grpc.aio.ServicerContext[Any, Any]
    ) -> bool:
        """Serves the stream until its client has sent all and been answered, or leaves.

        Returns:
            False if the stream ends because the service is stopping; see :func:`stop_short`.
        """
        await context.send_initial_metadata(())  # tells the client that it got through
        finished = True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(context))
                finished = await self._serve_frames(requests)
                self._outbox.close()
        except* grpc.aio.BaseError:
            log.info("the client left", extra={"session": self._name})
        return finished

    async def _serve_frames(self, requests: AsyncIterator[Request]) -> bool:
        """Starts frames as they arrive and waits for all; tells if the client had sent all."""
        async with asyncio.TaskGroup() as frames, self._lifecycle.intake() as intake:
            async for request in self._paced(requests):
                self._start(request, frames)
        return not intake.expired()

    async def _paced(self, requests: AsyncIterator[Request]) -> AsyncIterator[Request]:
        """Reads a request when there is a place for it."""
        while True:
            await self._limits.room()
            await self._places.acquire()
            try:
                request = await anext(requests)
            except StopAsyncIteration:
                return
            yield request

    def _start(self, request: Request, frames: asyncio.TaskGroup) -> None:
        if request.frame_id in self._in_flight:
            error = invalid("frame_id", f"{request.frame_id} is still in flight on this stream")
            self._finish(error.to_event(request.frame_id))
            return
        self._in_flight.add(request.frame_id)
        frames.create_task(self._serve(request))

    async def _serve(self, request: Request) -> None:
        frame_id = request.frame_id
        try:
            with self._telemetry.count_in_flight():
                async with self._lifecycle.work():
                    event = await self._handle(request, self._outbox.put_progress)
        except FrameError as error:
            event = error.to_event(frame_id)
            log.info(str(error), extra=self._about(frame_id) | {"code": error.code.name})
        except Exception as error:
            log.exception("a frame failed", extra=self._about(frame_id))
            event = internal(f"{type(error).__name__}: {error}").to_event(frame_id)
        self._in_flight.discard(frame_id)
        self._finish(event)

    def _finish(self, event: frame_pb2.FrameEvent) -> None:
        self._telemetry.frames.labels(status_name(event)).inc()
        self._outbox.put_last(event)

    async def _write(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        async for event in self._outbox.events():
            await context.write(self._respond(event))
            if not event.HasField("progress"):
                self._places.release()

    def _about(self, frame_id: int) -> dict[str, object]:
        return {"session": self._name, "frame": frame_id}


def status_name(event: frame_pb2.FrameEvent) -> str:
    """Name of the gRPC status that a last event stands for."""
    code = event.error.code
    return next((each.name for each in grpc.StatusCode if each.value[0] == code), "UNKNOWN")


def session_name(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """The session's name, from the hop before or, on the first, made up."""
    for key, value in context.invocation_metadata() or ():
        if key == SESSION_KEY and isinstance(value, str) and SESSION_NAME.fullmatch(value):
            return value
    return uuid.uuid4().hex[:12]


async def stop_short(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Ends a stream so that its client sends what is unanswered again, to whoever serves then."""
    try:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the service is stopping")
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError:
        log.info("the client left before it could be told")


class Places:
    """Counts open sessions against their limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    async def take(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Takes a place for the call, or turns it away when there is none."""
        if self._taken >= self._limit:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE,
                f"{self._taken} sessions are open, the limit is {self._limit}",
            )
        self._taken += 1

    def leave(self) -> None:
        """Gives the place back."""
        self._taken -= 1
