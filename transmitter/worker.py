"""Runs the encoder on a thread of its own, on all images that wait at once."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shared.errors import FrameError, internal
from transmitter.encoder import Encoder
from transmitter.quality import unit

log = logging.getLogger(__name__)

Symbols = NDArray[np.complex64]

# Images that come one after the other wait for each other: a run of the encoder on one image takes
# more than twice as long as one more image in a run. Both are small against a frame's latency.
GAP_SECONDS = 0.005  # after the image before
GATHER_SECONDS = 0.02  # after the first of the batch


@dataclass(frozen=True)
class _Job:
    image: NDArray[Any]
    told_snr_db: float
    symbols: Future[Symbols] = field(default_factory=Future)


class EncoderWorker:
    """Micro-batches: whatever waits when the device is free, or comes right after, goes together.

    Arguments:
        encoder: Ready to serve.
        device: Where it is.
        max_batch: The most images in one run.
        on_batch: Told the size of each batch.
        in_flight: How many frames the service has in work, wherever they are. Only while there
            are others than those that wait here do images wait for more to come.
    """

    def __init__(
        self,
        encoder: Encoder,
        device: torch.device,
        max_batch: int = 32,
        on_batch: Callable[[int], None] = lambda _: None,
        in_flight: Callable[[], int] = lambda: 0,
    ) -> None:
        self._encoder = encoder
        self._device = device
        self._max_batch = max_batch
        self._on_batch = on_batch
        self._in_flight = in_flight
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)
        self._thread.start()

    async def encode(self, image: NDArray[Any], told_snr_db: float) -> Symbols:
        """Encodes one image.

        Arguments:
            image: RGB, uint8 or float32 in [0, 1], with shape (H, W, 3).
            told_snr_db: The SNR that the encoder is told, dB.

        Returns:
            Channel input z, (k,).

        Raises:
            FrameError: If the encoder fails on it.
        """
        job = _Job(image, told_snr_db)
        self._jobs.put(job)
        return await asyncio.wrap_future(job.symbols)

    async def close(self) -> None:
        """Finishes what waits, then ends the thread."""
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs, closing = self._gather(first)
            # An image whose frame was cancelled while it waited is left out.
            if live := [job for job in jobs if job.symbols.set_running_or_notify_cancel()]:
                self._on_batch(len(live))
                self._finish(live)
            if closing:
                return

    def _gather(self, first: _Job) -> tuple[list[_Job], bool]:
        """What waits or is coming, up to a batch; and whether to close after it."""
        jobs = [first]
        until = time.monotonic() + GATHER_SECONDS
        while len(jobs) < self._max_batch:
            more = self._in_flight() > len(jobs)
            gap = min(GAP_SECONDS, until - time.monotonic()) if more else 0
            try:
                job = self._jobs.get(timeout=max(gap, 0))
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _finish(self, jobs: Sequence[_Job]) -> None:
        """Encodes a batch; if that fails, each image alone, so that one fails alone."""
        try:
            rows = self._encode(jobs)
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._finish([job])
                return
            log.exception("the encoder failed")
            jobs[0].symbols.set_exception(internal(f"{type(error).__name__}: {error}"))
            return
        for job, row in zip(jobs, rows, strict=True):
            if np.isfinite(row).all():
                job.symbols.set_result(row)
            else:
                job.symbols.set_exception(not_finite())

    @torch.inference_mode()
    def _encode(self, jobs: Sequence[_Job]) -> Symbols:
        x = to_batch([job.image for job in jobs], self._device)
        snr_db = torch.tensor([job.told_snr_db for job in jobs], device=self._device)
        rows: Symbols = self._encoder(x, snr_db).cpu().numpy()
        return rows


def to_batch(images: Sequence[NDArray[Any]], device: torch.device) -> torch.Tensor:
    """(H, W, 3) each, uint8 or float in [0, 1], to (B, 3, H, W), float32 in [0, 1].

    Pixels lie channels-last already, so that they are copied once; bytes cross to the device as
    bytes.
    """
    if all(image.dtype == np.uint8 for image in images):
        pixels = torch.from_numpy(np.stack(images)).to(device).float().div_(255)
    else:
        pixels = torch.from_numpy(np.stack([unit(image) for image in images])).to(device)
    return pixels.permute(0, 3, 1, 2)


def not_finite() -> FrameError:
    """The encoder's output cannot be sent."""
    return internal("the encoder's symbols are not finite")
