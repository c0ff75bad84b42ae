"""The whole link inside this process: the services' own encoder, channel and engine, no network."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from channel.awgn import awgn
from evaluation.images import Pixels
from receiver.engine import Engine, Job, Outcome
from receiver.models import load_receiver
from receiver.settings import Precision
from shared.bundle import Bundle
from shared.draws import Purpose, generator, unit_complex_normal
from transmitter.encoder import load_encoder
from transmitter.worker import EncoderWorker

OnProgress = Callable[[int, float], None]  # frame id, part done between 0 and 1


@dataclass(frozen=True)
class Frame:
    """One image to send; ``pixels`` is RGB, (H, W, 3), of the bundle's size."""

    frame_id: int
    pixels: Pixels


@dataclass(frozen=True)
class Settings:
    """How frames are sent.

    Attributes:
        restorer: Name of the restorer.
        snr_db: The true SNR, dB, which both ends are told.
        seed: With a frame's id it determines all its draws.
        steps: Denoising steps; None for the restorer's default.
    """

    restorer: str
    snr_db: float
    seed: int = 0
    steps: int | None = None


class LocalLink:
    """Sends images through a loaded bundle; gives what the three services would give.

    Arguments:
        bundle: What to load.
        device: Where to compute.
        max_batch: The most frames that restoration works on at once.
        precision: Of prior and INNs; "auto", a receiver's default, is bf16 where that is faster.

    Raises:
        BundleError: If the weights do not fit the bundle's architecture.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device,
        max_batch: int = 16,
        precision: Precision = "auto",
    ) -> None:
        self.bundle = bundle
        self._device = device
        self._max_batch = max_batch
        self._encoder = load_encoder(bundle, device)
        self.models = load_receiver(bundle, device, precision)

    @property
    def image_size(self) -> int:
        """Height and width of the images, pixels."""
        return int(self.bundle.manifest.jscc.architecture.image_size)

    def send(
        self,
        frames: Sequence[Frame],
        settings: Settings,
        on_progress: OnProgress = lambda frame_id, done: None,
    ) -> list[Outcome]:
        """Sends frames and waits for all of them.

        Returns:
            An outcome for each frame, in order.

        Raises:
            FrameError: If a frame fails; the others are dropped.
        """
        return asyncio.run(self._send(frames, settings, on_progress))

    async def _send(
        self, frames: Sequence[Frame], settings: Settings, on_progress: OnProgress
    ) -> list[Outcome]:
        async with self._workers() as (encoder, engine):
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(
                            self._send_one(frame, settings, encoder, engine, on_progress)
                        )
                        for frame in frames
                    ]
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    @asynccontextmanager
    async def _workers(self) -> AsyncIterator[tuple[EncoderWorker, Engine]]:
        encoder = EncoderWorker(self._encoder, self._device)
        engine = Engine(self.models, max_batch=self._max_batch)
        try:
            yield encoder, engine
        finally:
            await encoder.close()
            await engine.close()

    async def _send_one(
        self,
        frame: Frame,
        settings: Settings,
        encoder: EncoderWorker,
        engine: Engine,
        on_progress: OnProgress,
    ) -> Outcome:
        z = await encoder.encode(frame.pixels, settings.snr_db)
        job = Job(
            frame_id=frame.frame_id,
            seed=settings.seed,
            symbols=self._propagate(z, frame, settings),
            told_snr_db=settings.snr_db,
            restorer=settings.restorer,
            steps=settings.steps,
        )
        async for event in engine.run(job):
            if isinstance(event, Outcome):
                on_progress(frame.frame_id, 1.0)
                return event
            on_progress(frame.frame_id, event.step / event.steps)
        raise AssertionError("the engine ended a frame without an outcome")

    def _propagate(
        self, z: NDArray[np.complex64], frame: Frame, settings: Settings
    ) -> NDArray[np.complex64]:
        """Eqs. (3)-(4), with the frame's own noise."""
        draws = generator(settings.seed, frame.frame_id, Purpose.CHANNEL)
        unit_noise = unit_complex_normal(draws, len(z))
        return awgn(z, settings.snr_db, unit_noise, self.bundle.manifest.power)


def check_snr(bundle: Bundle, snr_db: float) -> None:
    """Raises ValueError unless the bundle was trained for the SNR, as the services would."""
    low, high = bundle.manifest.snr_range_db
    if not (math.isfinite(snr_db) and low <= snr_db <= high):
        raise ValueError(
            f"SNR {snr_db:g} dB, bundle {bundle.manifest.name} takes {low:g} to {high:g} dB"
        )
