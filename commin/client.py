"""The client: sends images over a link and yields what becomes of each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

import grpc

from commin import sources
from commin.frame_stream import FrameStream
from commin.results import FrameFailure, Outcome, Pixels, read_outcome, read_preview
from commin.transport import MAX_MESSAGE_BYTES, PLAINTEXT, TLSFiles, open_channel
from commin.v1 import (
    channel_pb2,
    channel_pb2_grpc,
    describe_pb2,
    frame_pb2,
    transmitter_pb2,
    transmitter_pb2_grpc,
)

Images = Iterable[sources.Image] | AsyncIterable[sources.Image]
# Called with the frame's id, the steps done, the steps in all and, at times, a preview.
OnProgress = Callable[[int, int, int, Pixels | None], None]
Stream = FrameStream[transmitter_pb2.TransmitRequest]

# What the transmitter's own report of a missed deadline may take to arrive.
SLACK_SECONDS = 2.0


class LinkError(ConnectionError):
    """The service cannot be reached, or cannot answer; the text names its address."""


@dataclass(frozen=True)
class SendOptions:
    """What :meth:`AsyncLink.send` is asked for; None leaves it to the services.

    Attributes:
        snr_db: The true SNR of the channel, dB.
        told_snr_db: The SNR that transmitter and receiver are told, dB.
        seed: With the frame id, determines all random draws.
        restorer: Name of the restorer.
        steps: Denoising steps.
        preview_every: Steps between previews, of which the decoded image is the first; 0 for none.
        timeout: Seconds that each frame may take.
        bundle: Name of the bundle that the frames are meant for.
    """

    snr_db: float | None = None
    told_snr_db: float | None = None
    seed: int | None = None
    restorer: str | None = None
    steps: int | None = None
    preview_every: int | None = None
    timeout: float | None = None
    bundle: str | None = None

    def to_message(self) -> frame_pb2.FrameOptions:
        """The options as they are sent.

        Raises:
            ValueError: If one does not fit its field.
        """
        link = frame_pb2.LinkOptions(
            told_snr_db=self.told_snr_db,
            seed=self.seed,
            timeout_seconds=self.timeout,
            bundle=self.bundle,
        )
        restoration = frame_pb2.RestorationOptions(
            restorer=self.restorer, steps=self.steps, preview_every=self.preview_every
        )
        channel = frame_pb2.ChannelOptions(snr_db=self.snr_db)
        return frame_pb2.FrameOptions(channel=channel, link=link, restoration=restoration)


class AsyncLink:
    """A link, seen from its client; made by :func:`commin.connect_async`."""

    def __init__(
        self,
        target: str,
        *,
        tls: TLSFiles = PLAINTEXT,
        connect_seconds: float = 10.0,
        reconnect_seconds: float = 30.0,
        max_in_flight: int = 32,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight {max_in_flight}, expected at least 1")
        self.target = target
        self._tls = tls
        self._connect_seconds = connect_seconds
        self._reconnect_seconds = reconnect_seconds
        self._max_in_flight = max_in_flight
        self._max_message_bytes = max_message_bytes
        self._channel: grpc.aio.Channel
        self._stub: transmitter_pb2_grpc.TransmitterServiceAsyncStub

    async def __aenter__(self) -> AsyncLink:
        self._channel = open_channel(
            self.target, self._tls, max_message_bytes=self._max_message_bytes
        )
        self._stub = transmitter_pb2_grpc.TransmitterServiceStub(self._channel)
        try:
            await reach(self._channel, self.target, self._connect_seconds)
        except BaseException:
            await self._channel.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._channel.close()

    async def describe(self) -> describe_pb2.LinkDescription:
        """What the link's services have loaded.

        Raises:
            LinkError: If one of them does not answer.
        """
        request = transmitter_pb2.TransmitterServiceDescribeRequest()
        try:
            response = await self._stub.Describe(request, timeout=self._connect_seconds)
        except grpc.aio.AioRpcError as error:
            raise link_error(self.target, error) from error
        return response.link

    async def send(
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
    ) -> AsyncGenerator[Outcome, None]:
        """Sends images and yields one result or failure for each.

        Images are taken only as fast as the link works. If it is lost, unanswered images are
        sent again; leaving the loop cancels what is in flight.

        Arguments:
            images: Paths, encoded bytes, arrays (H, W, 3) of uint8 or of floats in [0, 1], or
                Pillow images. A plain iterable is advanced on a thread.
            snr_db: The true SNR of the channel, dB. None: the channel's present default.
            told_snr_db: The SNR that transmitter and receiver are told, dB. None: the true one.
            seed: With the frame id, determines all random draws. None: the transmitter's.
            restorer: One of those that :meth:`describe` lists. None: the receiver's default.
            steps: Denoising steps. None: the restorer's default.
            preview_every: Steps between previews, 0 for none. None: the receiver's default.
            timeout: Seconds that each frame may take. None: the transmitter's default.
            bundle: Name of the bundle that the frames are meant for. None: any.
            on_progress: Called as a frame goes on with its id, the steps done, the steps in all
                and the present estimate, RGB (H, W, 3), or None between previews.
            ordered: Yield in the images' order, not in that of completion.
            first_frame_id: Id of the first frame; the others count up from it.

        Raises:
            ValueError: If an option does not fit its type.
        """
        options = SendOptions(
            snr_db, told_snr_db, seed, restorer, steps, preview_every, timeout, bundle
        )
        session = _Session(
            self._open_stream(),
            options,
            on_progress,
            self._max_in_flight,
            first_frame_id,
            self._max_message_bytes,
        )
        running = asyncio.create_task(session.run(images))
        try:
            async with contextlib.aclosing(session.outcomes(ordered)) as outcomes:
                async for outcome in outcomes:
                    yield outcome
        finally:
            running.cancel()
            await asyncio.wait([running])

    def _open_stream(self) -> Stream:
        return Stream(
            lambda: self._stub.Transmit(),
            f"the transmitter at {self.target}",
            give_up_seconds=self._reconnect_seconds,
        )


class _Session:
    """One run of :meth:`AsyncLink.send`.

    A frame holds one of the session's places from when its image is taken until its outcome is.
    """

    def __init__(
        self,
        stream: Stream,
        options: SendOptions,
        on_progress: OnProgress | None,
        max_in_flight: int,
        first_frame_id: int,
        max_message_bytes: int,
    ) -> None:
        self._stream = stream
        self._options = options.to_message()
        self._timeout = options.timeout
        self._on_progress = on_progress
        self._places = asyncio.Semaphore(max_in_flight)
        self._first = first_frame_id
        self._max_message_bytes = max_message_bytes
        self._done: asyncio.Queue[Outcome | BaseException | None] = asyncio.Queue()

    async def run(self, images: Images) -> None:
        """Sends all images; every outcome and at the end None or an error is left in a queue."""
        try:
            async with self._stream.running(), asyncio.TaskGroup() as frames:
                await self._feed(images, frames)
            self._done.put_nowait(None)
        except BaseException as error:
            self._done.put_nowait(error)

    async def _feed(self, images: Images, frames: asyncio.TaskGroup) -> None:
        frame_id = self._first
        async with contextlib.aclosing(self._paced(images)) as paced:
            async for image in paced:
                frames.create_task(self._send(image, frame_id))
                frame_id += 1

    async def _paced(self, images: Images) -> AsyncGenerator[sources.Image, None]:
        """Takes an image when there is a place for it."""
        async with contextlib.aclosing(sources.each(images)) as iterator:
            while True:
                await self._places.acquire()
                try:
                    yield await anext(iterator)
                except StopAsyncIteration:
                    return

    async def outcomes(self, ordered: bool) -> AsyncGenerator[Outcome, None]:
        """The outcomes as they come, or in the order of the frames."""
        held: dict[int, Outcome] = {}
        following = self._first
        while (outcome := await self._done.get()) is not None:
            if isinstance(outcome, BaseException):
                raise unwrap(outcome)
            held[outcome.frame_id] = outcome
            ready = following if ordered else outcome.frame_id
            while ready in held:
                self._places.release()
                yield held.pop(ready)
                following = ready = ready + 1

    async def _send(self, image: sources.Image, frame_id: int) -> None:
        source = sources.name_of(image, frame_id - self._first)
        try:
            request = await sources.prepare(image, frame_id)
            request.options.CopyFrom(self._options)
            if (size := request.ByteSize()) > self._max_message_bytes:
                limit = self._max_message_bytes
                raise sources.SourceError(f"{size} bytes to send, the limit is {limit} bytes")
            outcome = await self._exchange(request, source)
        except sources.SourceError as error:
            invalid = grpc.StatusCode.INVALID_ARGUMENT
            outcome = FrameFailure(frame_id, source, invalid, "image", str(error))
        self._done.put_nowait(outcome)

    async def _exchange(self, request: transmitter_pb2.TransmitRequest, source: str) -> Outcome:
        def report(event: frame_pb2.FrameEvent) -> None:
            if self._on_progress:
                progress = event.progress
                preview = read_preview(progress)
                self._on_progress(event.frame_id, progress.step, progress.steps, preview)

        limit = None if self._timeout is None else self._timeout + SLACK_SECONDS
        try:
            async with asyncio.timeout(limit):
                event = await self._stream.exchange(request.frame_id, lambda: request, report)
        except TimeoutError:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            message = f"no answer within {self._timeout:g} s"
            if self._stream.trouble:
                message += f" ({self._stream.trouble})"
            return FrameFailure(request.frame_id, source, code, None, message)
        return read_outcome(event, source)


def unwrap(error: BaseException) -> BaseException:
    """The first error inside nested groups: what a caller's own code raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def reach(channel: grpc.aio.Channel, target: str, seconds: float) -> None:
    """Waits for a connection.

    Raises:
        LinkError: If there is none in time.
    """
    try:
        async with asyncio.timeout(seconds):
            await channel.channel_ready()
    except TimeoutError:
        raise LinkError(f"nothing answers at {target} (waited {seconds:g} s)") from None


def link_error(target: str, error: grpc.aio.AioRpcError) -> LinkError:
    """A call's failure as a client's exception."""
    return LinkError(f"{target}: {error.code().name}: {error.details()}")


async def configure_channel_async(
    target: str,
    *,
    default_snr_db: float | None = None,
    tls: TLSFiles = PLAINTEXT,
    connect_seconds: float = 10.0,
) -> describe_pb2.ChannelDescription:
    """Changes a running channel; what is None stays.

    Arguments:
        target: Address of the channel service.
        default_snr_db: The SNR of frames that set none, dB.
        tls: What to trust and to show.
        connect_seconds: How long to wait for a connection.

    Returns:
        The channel's settings now.

    Raises:
        LinkError: If there is no answer.
        ValueError: If the channel rejects a value.
    """
    request = channel_pb2.ConfigureRequest(default_snr_db=default_snr_db)
    async with open_channel(target, tls) as channel:
        await reach(channel, target, connect_seconds)
        try:
            stub = channel_pb2_grpc.ChannelServiceStub(channel)
            response = await stub.Configure(request, timeout=connect_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise ValueError(error.details()) from error
            raise link_error(target, error) from error
    return response.channel
