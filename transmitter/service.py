"""The transmitter's gRPC service: images in, what became of them out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import torch
from numpy.typing import NDArray

from commin import tensors
from commin.frame_stream import FrameStream
from commin.hops import PropagateRequest
from commin.transport import SESSION_KEY
from commin.v1 import channel_pb2, describe_pb2, frame_pb2, transmitter_pb2, transmitter_pb2_grpc
from commin.wire import Parcel
from shared.bundle import Bundle
from shared.cpu import keep_freed_memory
from shared.describe import describe_bundle
from shared.errors import FrameError, deadline_exceeded
from shared.lifecycle import Lifecycle
from shared.options import timeout_seconds
from shared.server import run as run_server
from shared.session import Emit, Places, Session, SessionLimits, session_name, stop_short
from shared.telemetry import TransmitterTelemetry
from shared.weights import pick_device
from transmitter.encoder import load_encoder
from transmitter.images import FEW_BYTES, ImageLimits, Preparer
from transmitter.link import Link, resolve
from transmitter.quality import psnr_db
from transmitter.settings import TransmitterSettings
from transmitter.worker import EncoderWorker, Symbols

Uplink = FrameStream[PropagateRequest]
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Encoded:
    """A frame that is ready to cross the channel.

    Attributes:
        original: The image that was encoded, (H, W, 3).
        symbols: Channel input, (k,).
        options: With everything set.
        seconds: What preparing and encoding the image took.
    """

    original: NDArray[Any]
    symbols: Symbols
    options: frame_pb2.FrameOptions
    seconds: float


class TransmitterService(transmitter_pb2_grpc.TransmitterServiceServicer):
    """Encodes images, sends them over the channel, relays and rates what comes back."""

    name = "commin.v1.TransmitterService"

    def __init__(self, settings: TransmitterSettings) -> None:
        self.lifecycle = Lifecycle()
        self.telemetry = TransmitterTelemetry()
        self._settings = settings
        self._link = Link(settings)
        self._places = Places(settings.max_sessions)
        self._bundle: Bundle
        self._worker: EncoderWorker
        self._preparer: Preparer

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the service's handlers to the server."""
        transmitter_pb2_grpc.add_TransmitterServiceServicer_to_server(self, server)

    async def load(self) -> None:
        """Loads the bundle's encoder.

        Raises:
            BundleError: If the bundle cannot be used.
            ValueError: If the device cannot be used.
        """
        settings = self._settings
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._device = pick_device(settings.device)
        self._bundle = await asyncio.to_thread(Bundle.open, settings.bundle)
        encoder = await asyncio.to_thread(load_encoder, self._bundle, self._device)
        keep_freed_memory()
        on_batch = self.telemetry.batch_size.observe
        self._worker = EncoderWorker(
            encoder, self._device, settings.max_batch, on_batch, lambda: self.lifecycle.in_flight
        )
        size = self._bundle.manifest.jscc.architecture.image_size
        limits = ImageLimits(size, settings.max_image_bytes, settings.max_pixels)
        self._preparer = Preparer(limits, settings.image_threads)

    async def close(self) -> None:
        """Ends the threads and the connection to the channel."""
        self._preparer.close()
        await self._worker.close()
        await self._link.close()

    async def Describe(
        self, request: transmitter_pb2.TransmitterServiceDescribeRequest, context: Context
    ) -> transmitter_pb2.TransmitterServiceDescribeResponse:
        """Describes the whole link."""
        try:
            behind = await self._link.describe()
        except FrameError as error:
            await context.abort(error.code, error.description)
        transmitter = describe_pb2.TransmitterDescription(
            bundle=describe_bundle(self._bundle), device=str(self._device)
        )
        link = describe_pb2.LinkDescription(
            transmitter=transmitter, channel=behind.channel, receiver=behind.receiver
        )
        return transmitter_pb2.TransmitterServiceDescribeResponse(link=link)

    async def Transmit(  # type: ignore[override]  # events are written, not yielded
        self, request_iterator: AsyncIterator[transmitter_pb2.TransmitRequest], context: Context
    ) -> None:
        """Serves one session."""
        await self._places.take(context)
        name = session_name(context)
        uplink = Uplink(
            lambda: self._link.propagate(((SESSION_KEY, name),)),
            f"the channel at {self._link.target}",
            on_resend=self.telemetry.resent.inc,
        )

        async def serve(
            request: transmitter_pb2.TransmitRequest, emit: Emit
        ) -> frame_pb2.FrameEvent:
            return await self._serve(request, uplink, emit)

        session = Session(
            serve,
            lambda event: transmitter_pb2.TransmitResponse(event=event),
            limits=SessionLimits(self._settings.max_in_flight, self._preparer.room),
            lifecycle=self.lifecycle,
            telemetry=self.telemetry,
            name=name,
        )
        try:
            async with uplink.running():
                finished = await session.run(request_iterator, context)
        finally:
            self._places.leave()
        if not finished:
            await stop_short(context)

    async def _serve(
        self, request: transmitter_pb2.TransmitRequest, uplink: Uplink, emit: Emit
    ) -> frame_pb2.FrameEvent:
        """One frame, from its arrival to its last event."""
        arrived = time.monotonic()
        settings = self._settings
        seconds = timeout_seconds(
            request.options, settings.frame_timeout_seconds, settings.max_timeout_seconds
        )
        try:
            async with asyncio.timeout(seconds):
                encoded = await self._encode(request)
                event = await uplink.exchange(
                    request.frame_id,
                    lambda: self._pass_on(request.frame_id, encoded, arrived + seconds),
                    emit,
                )
        except TimeoutError:
            where = uplink.trouble or "the link is up but was not fast enough"
            raise deadline_exceeded(seconds, where) from None
        if event.HasField("result"):
            await self._rate(event.result, encoded)
            event.result.timings.end_to_end_seconds = time.monotonic() - arrived
            self.telemetry.observe_result(event.result)
        return event

    async def _encode(self, request: transmitter_pb2.TransmitRequest) -> Encoded:
        started = time.monotonic()
        original = await self._preparer.prepare(request)
        prepared = time.monotonic()
        options = await resolve(
            request.options, self._bundle, self._settings.default_seed, self._link
        )
        resolved = time.monotonic()
        symbols = await self._worker.encode(original, options.link.told_snr_db)
        elapsed = prepared - started + time.monotonic() - resolved
        return Encoded(original, symbols, options, elapsed)

    def _pass_on(self, frame_id: int, encoded: Encoded, deadline: float) -> PropagateRequest:
        """The request to the channel, with what is left of the frame's time."""
        request = channel_pb2.PropagateRequest(
            frame_id=frame_id, options=encoded.options, power=self._bundle.manifest.power
        )
        request.options.link.timeout_seconds = max(deadline - time.monotonic(), 0.001)
        return Parcel(request, tensors.describe_into(request.symbols, encoded.symbols))

    async def _rate(self, result: frame_pb2.Result, encoded: Encoded) -> None:
        """Adds to a result what only the transmitter knows."""
        result.told_snr_db = encoded.options.link.told_snr_db
        result.timings.encode_seconds = encoded.seconds
        quality = result.quality
        if encoded.original.size <= FEW_BYTES:
            psnrs = _psnrs_db(encoded.original, result)
        else:
            psnrs = await asyncio.to_thread(_psnrs_db, encoded.original, result)
        quality.decoded_psnr_db, quality.restored_psnr_db = psnrs


def _psnrs_db(original: NDArray[Any], result: frame_pb2.Result) -> tuple[float, float]:
    """PSNR of the decoded and of the restored image; without restoration they are one."""
    decoded = psnr_db(original, _pixels(result.decoded, "decoded"))
    if result.restored.data == result.decoded.data:
        return decoded, decoded
    return decoded, psnr_db(original, _pixels(result.restored, "restored"))


def _pixels(tensor: Any, field: str) -> NDArray[np.uint8]:
    return tensors.decode(
        tensor, dtype=np.uint8, shape=(None, None, 3), max_bytes=2**31, field=field
    )


def run(settings: TransmitterSettings) -> None:
    """Runs a transmitter in this process until it is told to stop; see ``shared.server.run``."""
    run_server(settings, lambda: TransmitterService(settings), "transmitter")
