"""The receiver's gRPC service: one call per frame, its progress and its result out."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from contextlib import aclosing
from typing import Any

import grpc
import numpy as np
import torch

from commin import tensors
from commin.hops import ReceiveRequest, serve_receive
from commin.v1 import describe_pb2, frame_pb2, receiver_pb2, receiver_pb2_grpc
from receiver.engine import Engine, Job, Outcome, Update
from receiver.models import load_receiver
from receiver.restorers.base import Restorer
from receiver.settings import ReceiverSettings
from shared.bundle import Bundle
from shared.cpu import in_passing_thread, keep_freed_memory
from shared.describe import describe_bundle
from shared.errors import FrameError, internal, invalid
from shared.lifecycle import Lifecycle
from shared.options import TOLD_SNR, check_bundle, check_snr, require_link_options
from shared.server import run as run_server
from shared.session import session_name, status_name
from shared.telemetry import ReceiverTelemetry
from shared.weights import pick_device

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class ReceiverService(receiver_pb2_grpc.ReceiverServiceServicer):
    """Maps requests to the engine's jobs and its events back."""

    name = "commin.v1.ReceiverService"

    def __init__(self, settings: ReceiverSettings) -> None:
        self.lifecycle = Lifecycle()
        self.telemetry = ReceiverTelemetry()
        self._settings = settings
        self._bundle: Bundle
        self._engine: Engine
        self._default_restorer: str

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the service's handlers to the server."""
        receiver_pb2_grpc.add_ReceiverServiceServicer_to_server(self, server)
        serve_receive(server, self.Receive)

    async def load(self) -> None:
        """Loads the bundle's decoder, INNs and prior, and starts the engine.

        Raises:
            BundleError: If the bundle cannot be used.
            ValueError: If the device or the default restorer cannot be used.
        """
        settings = self._settings
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self._device = pick_device(settings.device)
        self._bundle = await asyncio.to_thread(Bundle.open, settings.bundle)
        models = await in_passing_thread(
            load_receiver, self._bundle, self._device, settings.precision, settings.compile
        )
        keep_freed_memory()
        self._engine = await in_passing_thread(
            Engine,
            models,
            max_batch=settings.max_batch,
            queue_limit=settings.queue_limit,
            on_step=self.telemetry.observe_step,
        )
        self._default_restorer = self._choose_restorer()
        self.telemetry.queue_limit.set(settings.queue_limit)
        self.telemetry.watch(lambda: self._engine.queue_depth, gpu_memory(self._device))

    def _choose_restorer(self) -> str:
        names = list(self._engine.restorers)
        chosen = self._settings.default_restorer or names[-1]
        if chosen not in names:
            raise ValueError(
                f"default_restorer {chosen!r} is not among those that bundle "
                f"{self._bundle.manifest.name} can serve: {', '.join(names)}"
            )
        return chosen

    async def close(self) -> None:
        """Stops the engine."""
        await self._engine.close()

    async def Describe(
        self, request: receiver_pb2.ReceiverServiceDescribeRequest, context: Context
    ) -> receiver_pb2.ReceiverServiceDescribeResponse:
        """Describes what is loaded."""
        restorers = [
            describe_pb2.RestorerDescription(
                name=restorer.name,
                summary=restorer.summary,
                default_steps=restorer.default_steps,
                max_steps=restorer.max_steps,
                digest=self._digest(restorer),
            )
            for restorer in self._engine.restorers.values()
        ]
        receiver = describe_pb2.ReceiverDescription(
            bundle=describe_bundle(self._bundle),
            device=str(self._device),
            restorers=restorers,
            default_restorer=self._default_restorer,
        )
        return receiver_pb2.ReceiverServiceDescribeResponse(receiver=receiver)

    def _digest(self, restorer: Restorer) -> str:
        used = self._bundle.manifest.digest_without(restorer.ignores)
        precision = self._engine.models.dtype
        return hashlib.sha256(f"{used} {precision}".encode()).hexdigest()

    async def Receive(  # type: ignore[override]  # events are written, not yielded
        self, request: ReceiveRequest, context: Context
    ) -> None:
        """Serves one frame."""
        session, frame_id = session_name(context), request.frame_id
        about = {"session": session, "frame": frame_id}
        status = "CANCELLED"
        try:
            with self.telemetry.count_in_flight():
                async with self.lifecycle.work():
                    event = await self._serve(request, session, context)
        except FrameError as error:
            log.info(str(error), extra=about | {"code": error.code.name})
            event = error.to_event(frame_id)
        except asyncio.CancelledError:
            log.info("the frame was cancelled", extra=about)
            self.telemetry.frames.labels(status).inc()
            raise
        except Exception as error:
            log.exception("the frame failed", extra=about)
            event = internal(f"{type(error).__name__}: {error}").to_event(frame_id)
        self.telemetry.frames.labels(status_name(event)).inc()
        await context.write(receiver_pb2.ReceiveResponse(event=event))

    async def _serve(
        self, request: ReceiveRequest, session: str, context: Context
    ) -> frame_pb2.FrameEvent:
        """Sends the frame's progress; returns its result."""
        job = self._make_job(request, session, context.time_remaining())
        async with aclosing(self._engine.run(job)) as events:
            async for event in events:
                if isinstance(event, Outcome):
                    return self._result(job, event)
                await context.write(progress(job.frame_id, event))
        raise internal("the engine ended without an outcome")

    def _make_job(self, request: ReceiveRequest, session: str, seconds: float | None) -> Job:
        """The engine's view of the request, once that is found in order."""
        manifest = self._bundle.manifest
        options = request.message.options
        link = options.link
        check_bundle(options, manifest.name, self._bundle.codec_digest, "receiver")
        require_link_options(link)
        told = check_snr(
            TOLD_SNR, link.told_snr_db, manifest.snr_range_db, f"bundle {manifest.name}"
        )
        restoration = options.restoration
        return Job(
            frame_id=request.frame_id,
            seed=link.seed,
            symbols=self._symbols(request),
            told_snr_db=told,
            restorer=restoration.restorer or self._default_restorer,
            steps=restoration.steps if restoration.HasField("steps") else None,
            preview_every=(
                restoration.preview_every
                if restoration.HasField("preview_every")
                else self._settings.default_preview_every
            ),
            deadline=None if seconds is None else time.monotonic() + seconds,
            session=session,
        )

    def _symbols(self, request: ReceiveRequest) -> Any:
        k = self._bundle.manifest.jscc.architecture.symbols
        try:
            return tensors.decode(
                request.message.symbols,
                dtype=np.complex64,
                shape=(k,),
                max_bytes=k * np.dtype(np.complex64).itemsize,
                field="symbols",
                data=request.data,
            )
        except tensors.TensorError as error:
            raise invalid(error.field, error.description) from error

    def _result(self, job: Job, outcome: Outcome) -> frame_pb2.FrameEvent:
        timings = frame_pb2.StageTimings(
            queue_seconds=outcome.queue_seconds,
            decode_seconds=outcome.decode_seconds,
            restore_seconds=outcome.restore_seconds,
            first_preview_seconds=outcome.first_preview_seconds,
        )
        self.telemetry.observe_result(timings)
        event = frame_pb2.FrameEvent(frame_id=job.frame_id)
        result = event.result
        result.timings.CopyFrom(timings)
        result.restorer, result.steps = job.restorer, outcome.steps
        result.told_snr_db = job.told_snr_db
        tensors.encode_into(result.restored, outcome.restored)
        tensors.encode_into(result.decoded, outcome.decoded)
        return event


def progress(frame_id: int, update: Update) -> receiver_pb2.ReceiveResponse:
    """A progress event, with the preview if there is one."""
    response = receiver_pb2.ReceiveResponse()
    event = response.event
    event.frame_id = frame_id
    event.progress.step, event.progress.steps = update.step, update.steps
    if update.preview is not None:
        tensors.encode_into(event.progress.preview, update.preview)
    return response


def gpu_memory(device: torch.device) -> Any:
    """A function that tells the bytes that tensors take on the GPU."""
    if device.type != "cuda":
        return lambda: 0
    return lambda: torch.cuda.memory_allocated(device)


def run(settings: ReceiverSettings) -> None:
    """Runs a receiver in this process until it is told to stop; see ``shared.server.run``."""
    run_server(settings, lambda: ReceiverService(settings), "receiver")
