"""The channel's gRPC service: symbols in, noise added, what the receiver made of them out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from channel.noise import NoisySymbols, Symbols, add_noise
from channel.receiver import Receiver
from channel.settings import ChannelSettings
from commin import tensors
from commin.hops import PropagateRequest, serve_propagate
from commin.v1 import channel_pb2, channel_pb2_grpc, describe_pb2, frame_pb2, receiver_pb2
from commin.wire import Parcel
from shared.errors import FrameError, invalid
from shared.lifecycle import Lifecycle
from shared.options import SNR, check_snr, require_link_options, timeout_seconds
from shared.server import run as run_server
from shared.session import Emit, Places, Session, SessionLimits, session_name, stop_short
from shared.telemetry import ChannelTelemetry

Context = grpc.aio.ServicerContext[Any, Any]

LONGEST_SECONDS = 86_400.0
# Noise on so few symbols takes less time than handing them to a thread and back.
FEW_BYTES = 2**15


class ChannelService(channel_pb2_grpc.ChannelServiceServicer):
    """Adds noise to symbols, has a receiver receive them and relays what comes back."""

    name = "commin.v1.ChannelService"

    def __init__(self, settings: ChannelSettings) -> None:
        self.lifecycle = Lifecycle()
        self.telemetry = ChannelTelemetry()
        self._settings = settings
        self._snr_range_db = settings.min_snr_db, settings.max_snr_db
        self._default_snr_db = settings.default_snr_db
        self._receiver = Receiver(settings, self.telemetry.resent.inc)
        self._threads = ThreadPoolExecutor(settings.noise_threads, thread_name_prefix="noise")
        self._places = Places(settings.max_sessions)
        self.telemetry.default_snr_db.set_function(lambda: self._default_snr_db)

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the service's handlers to the server."""
        channel_pb2_grpc.add_ChannelServiceServicer_to_server(self, server)
        serve_propagate(server, self.Propagate)

    async def load(self) -> None:
        """There is nothing to load; the receiver may come up later."""

    async def close(self) -> None:
        """Ends the threads and the connection to the receiver."""
        self._threads.shutdown(wait=False)
        await self._receiver.close()

    async def Describe(
        self, request: channel_pb2.ChannelServiceDescribeRequest, context: Context
    ) -> channel_pb2.ChannelServiceDescribeResponse:
        """Describes the channel and, unless told not to, the receiver behind it."""
        response = channel_pb2.ChannelServiceDescribeResponse(channel=self._describe())
        if not request.channel_only:
            try:
                response.receiver.CopyFrom(await self._receiver.describe())
            except FrameError as error:
                await context.abort(error.code, error.description)
        return response

    async def Configure(
        self, request: channel_pb2.ConfigureRequest, context: Context
    ) -> channel_pb2.ConfigureResponse:
        """Changes the default SNR of frames yet to come."""
        if request.HasField("default_snr_db"):
            try:
                self._default_snr_db = self._check("default_snr_db", request.default_snr_db)
            except FrameError as error:
                await context.abort(error.code, str(error))
        return channel_pb2.ConfigureResponse(channel=self._describe())

    async def Propagate(  # type: ignore[override]  # events are written, not yielded
        self, request_iterator: AsyncIterator[PropagateRequest], context: Context
    ) -> None:
        """Serves one session."""
        await self._places.take(context)
        name = session_name(context)

        async def serve(request: PropagateRequest, emit: Emit) -> frame_pb2.FrameEvent:
            return await self._serve(request, name, emit)

        session = Session(
            serve,
            lambda event: channel_pb2.PropagateResponse(event=event),
            limits=SessionLimits(self._settings.max_in_flight),
            lifecycle=self.lifecycle,
            telemetry=self.telemetry,
            name=name,
        )
        try:
            finished = await session.run(request_iterator, context)
        finally:
            self._places.leave()
        if not finished:
            await stop_short(context)

    async def _serve(
        self, request: PropagateRequest, session: str, emit: Emit
    ) -> frame_pb2.FrameEvent:
        """One frame, from its arrival to its last event."""
        arrived = time.monotonic()
        options = request.message.options
        seconds = timeout_seconds(options, self._settings.frame_timeout_seconds, LONGEST_SECONDS)
        snr_db = self._check_options(options)
        if len(request.data) <= FEW_BYTES:
            noisy = self._add_noise(request, snr_db)
        else:
            loop = asyncio.get_running_loop()
            noisy = await loop.run_in_executor(self._threads, self._add_noise, request, snr_db)
        message = receiver_pb2.ReceiveRequest(frame_id=request.frame_id, options=options)
        message.options.channel.snr_db = snr_db
        onward = Parcel(message, tensors.describe_into(message.symbols, noisy.symbols))
        elapsed = time.monotonic() - arrived
        self.telemetry.observe_frame(snr_db, noisy.realised_snr_db, len(noisy.symbols), elapsed)
        event = await self._receiver.receive(onward, arrived + seconds, session, emit)
        if event.HasField("result"):
            event.result.channel.snr_db = snr_db
            event.result.channel.realised_snr_db = noisy.realised_snr_db
            event.result.timings.propagate_seconds = elapsed
        return event

    def _check_options(self, options: frame_pb2.FrameOptions) -> float:
        """The frame's SNR in dB, once its options are found in order."""
        require_link_options(options.link)
        if not options.channel.HasField("snr_db"):
            return self._default_snr_db
        return self._check(SNR, options.channel.snr_db)

    def _add_noise(self, request: PropagateRequest, snr_db: float) -> NoisySymbols:
        message = request.message
        power = message.power if message.HasField("power") else 1.0
        if not 0 < power < np.finfo(np.float32).max:
            raise invalid("power", f"{power:g}, expected a positive finite number")
        try:
            symbols = tensors.decode(
                message.symbols,
                dtype=np.complex64,
                shape=(None,),
                max_bytes=self._settings.max_symbols * np.dtype(np.complex64).itemsize,
                field="symbols",
                finite=False,  # checked on the way, with the noise
                data=request.data,
            )
            return self._noisy(symbols, snr_db, message, power)
        except tensors.TensorError as error:
            raise invalid(error.field, error.description) from error

    @staticmethod
    def _noisy(
        symbols: Symbols, snr_db: float, message: channel_pb2.PropagateRequest, power: float
    ) -> NoisySymbols:
        try:
            return add_noise(symbols, snr_db, message.options.link.seed, message.frame_id, power)
        except ValueError as error:
            tensors.check_finite(symbols, "symbols")
            raise invalid("symbols", str(error)) from error

    def _check(self, field: str, snr_db: float) -> float:
        return check_snr(field, snr_db, self._snr_range_db, "this channel")

    def _describe(self) -> describe_pb2.ChannelDescription:
        low, high = self._snr_range_db
        return describe_pb2.ChannelDescription(
            model="awgn",
            default_snr_db=self._default_snr_db,
            snr_range=describe_pb2.SnrRange(min_db=low, max_db=high),
        )


def run(settings: ChannelSettings) -> None:
    """Runs a channel in this process until it is told to stop; see ``shared.server.run``."""
    run_server(settings, lambda: ChannelService(settings), "channel")
