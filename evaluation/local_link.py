"""The whole link inside this process: the services' own encoder, channel and engine, no network."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
from transmitter.worker import not_finite, to_batch

Symbols = NDArray[np.complex64]
OnProgress = Callable[[int, float], None]  # frame id, part done between 0 and 1


@dataclass(frozen=True)
class Frame:
    """One image to send.

    Attributes:
        frame_id: With the seed it determines all draws.
        pixels: RGB, (H, W, 3), of the bundle's size.
        name: What its data set calls it.
    """

    frame_id: int
    pixels: Pixels
    name: str = ""


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

        Each ``max_batch`` frames in turn make one batch at every network, so the same frames give
        the same bits however busy the machine is.

        Returns:
            An outcome for each frame, in order.

        Raises:
            FrameError: If a frame fails; the others are dropped.
        """
        outcomes: list[Outcome] = []
        for first in range(0, len(frames), self._max_batch):
            batch = frames[first : first + self._max_batch]
            received = self._transmit(batch, settings)
            outcomes += asyncio.run(self._receive(batch, received, settings, on_progress))
        return outcomes

    @torch.inference_mode()
    def _transmit(self, frames: Sequence[Frame], settings: Settings) -> list[Symbols]:
        """Eqs. (1)-(4): encodes the frames, and adds to each its own noise."""
        x = to_batch([frame.pixels for frame in frames], self._device)
        snr_db = torch.full((len(frames),), settings.snr_db, device=self._device)
        rows = self._encoder(x, snr_db).cpu().numpy()
        if not np.isfinite(rows).all():
            raise not_finite()
        return [self._propagate(z, frame, settings) for z, frame in zip(rows, frames, strict=True)]

    def _propagate(self, z: Symbols, frame: Frame, settings: Settings) -> Symbols:
        draws = generator(settings.seed, frame.frame_id, Purpose.CHANNEL)
        unit_noise = unit_complex_normal(draws, len(z))
        return awgn(z, settings.snr_db, unit_noise, self.bundle.manifest.power)

    async def _receive(
        self,
        frames: Sequence[Frame],
        received: Sequence[Symbols],
        settings: Settings,
        on_progress: OnProgress,
    ) -> list[Outcome]:
        """Decodes and restores the frames, all in one batch."""
        engine = Engine(self.models, max_batch=len(frames))
        try:
            async with asyncio.TaskGroup() as group:
                with engine._changed:  # kept from the worker until all wait: see below
                    tasks = [
                        group.create_task(
                            self._receive_one(frame, z, settings, engine, on_progress)
                        )
                        for frame, z in zip(frames, received, strict=True)
                    ]
                    await all_waiting(engine, tasks)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            await engine.close()
        return [task.result() for task in tasks]

    async def _receive_one(
        self,
        frame: Frame,
        symbols: Symbols,
        settings: Settings,
        engine: Engine,
        on_progress: OnProgress,
    ) -> Outcome:
        job = Job(
            frame_id=frame.frame_id,
            seed=settings.seed,
            symbols=symbols,
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


async def all_waiting(engine: Engine, tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Lets frames enqueue until all of them wait for work, or one has failed before that.

    The engine's worker takes whatever waits. While this thread holds the engine's lock, which it
    may take again to enqueue, the worker takes none; so afterwards it takes all of them at once,
    and timing cannot change which frames share a batch.
    """
    while engine.queue_depth < len(tasks) and not any(task.done() for task in tasks):
        await asyncio.sleep(0)


def check_snr(bundle: Bundle, snr_db: float) -> None:
    """Raises ValueError unless the bundle was trained for the SNR, as the services would."""
    low, high = bundle.manifest.snr_range_db
    if not (math.isfinite(snr_db) and low <= snr_db <= high):
        raise ValueError(
            f"SNR {snr_db:g} dB, bundle {bundle.manifest.name} takes {low:g} to {high:g} dB"
        )
