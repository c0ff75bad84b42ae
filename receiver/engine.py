"""Runs many restorations at once on one device, a denoising step at a time.

Frames at different steps, SNRs and seeds share network batches: newcomers join at the next step,
finished ones leave at once. One thread owns the device; the event loop never computes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from receiver.models import ReceiverModels
from receiver.restorers import restorers_for
from receiver.restorers.base import Restorer, Trajectory, to_unit
from shared.draws import DiffusionNoise
from shared.errors import FrameError, invalid

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Job:
    """One frame to receive.

    Attributes:
        frame_id: The frame's id, which with ``seed`` determines its diffusion noise.
        seed: See ``frame_id``.
        symbols: Channel output, complex64, (k,).
        told_snr_db: The SNR that the receiver is told, dB.
        restorer: Name of the restorer.
        steps: Denoising steps; None for the restorer's default.
        preview_every: A preview every so many steps; 0 for none.
        deadline: On the clock of ``time.monotonic``, seconds; None for none.
        session: Waiting frames are taken from all sessions in turn.
    """

    frame_id: int
    seed: int
    symbols: NDArray[np.complex64]
    told_snr_db: float
    restorer: str
    steps: int | None = None
    preview_every: int = 0
    deadline: float | None = None
    session: str = ""


@dataclass(frozen=True)
class Update:
    """A frame went further; ``preview`` is RGB, (H, W, 3), or None between previews."""

    step: int
    steps: int
    preview: Pixels | None


@dataclass(frozen=True)
class Outcome:
    """A frame is done; images are RGB, (H, W, 3), times in seconds."""

    decoded: Pixels
    restored: Pixels
    steps: int
    queue_seconds: float
    decode_seconds: float
    restore_seconds: float
    first_preview_seconds: float | None


class _Mailbox:
    """Hands one frame's events from the worker to its reader.

    A slow reader finds the newest update only, so the mailbox never grows; a preview is not
    overwritten by an update without one.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._lock = threading.Lock()
        self._update: Update | None = None
        self._final: Outcome | FrameError | None = None

    def put(self, item: Update | Outcome | FrameError) -> None:
        """Called by the worker."""
        with self._lock:
            if not isinstance(item, Update):
                self._final = item
            elif self._update is not None and item.preview is None:
                self._update = Update(item.step, item.steps, self._update.preview)
            else:
                self._update = item
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:  # the reader's loop is closed: nobody is waiting
            log.debug("a frame's reader is gone")

    async def get(self) -> Update | Outcome | FrameError:
        """Waits for the next event."""
        while True:
            await self._ready.wait()
            with self._lock:
                item = self._update or self._final
                self._update = None
                if self._final is None or item is self._final:
                    self._ready.clear()
            if item is not None:  # the wake-up of an update that a newer one replaced finds none
                return item


@dataclass
class _Task:
    """A job inside the engine."""

    job: Job
    restorer: Restorer
    steps: int
    mailbox: _Mailbox
    arrived: float
    cancelled: bool = False
    started: float = 0.0
    decode_seconds: float = 0.0
    first_preview: float | None = None
    decoded: Pixels = field(default_factory=lambda: np.empty(0, np.uint8))
    trajectory: Trajectory | None = None

    @property
    def batch_key(self) -> Hashable:
        assert self.trajectory is not None
        return self.restorer.name, self.restorer.batch_key(self.trajectory)


class Engine:
    """Step-level batching of any iterative restorer.

    Arguments:
        models: What to compute with.
        max_batch: The most frames in work at once.
        queue_limit: The most frames waiting for work; further ones wait at :meth:`run`.
        on_step: Told of each denoising step of a batch: its frames, and the seconds it took.
    """

    def __init__(
        self,
        models: ReceiverModels,
        *,
        max_batch: int = 16,
        queue_limit: int = 64,
        on_step: Callable[[int, float], None] = lambda frames, seconds: None,
    ) -> None:
        self.models = models
        self.restorers = restorers_for(models)
        self.max_batch = max_batch
        self._on_step = on_step
        self._places = asyncio.Semaphore(max_batch + queue_limit)
        self._waiting: OrderedDict[str, deque[_Task]] = OrderedDict()
        self._active: list[_Task] = []
        self._changed = threading.Condition()
        self._closing = False
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)
        self._worker.start()

    @property
    def queue_depth(self) -> int:
        """Frames waiting for work."""
        with self._changed:
            return sum(map(len, self._waiting.values()))

    @property
    def in_flight(self) -> int:
        """Frames in work."""
        return sum(not task.cancelled for task in self._active)

    async def run(self, job: Job) -> AsyncGenerator[Update | Outcome, None]:
        """Yields the frame's updates, then its outcome.

        Closing the iterator frees the frame's place within a step.

        Raises:
            FrameError: If the restorer is unknown, ``steps`` or the symbols do not suit it, the
                deadline passes, or the computation fails.
        """
        restorer, steps = self._check(job)
        arrived = time.monotonic()
        async with self._places:
            task = _Task(job, restorer, steps, _Mailbox(), arrived)
            self._enqueue(task)
            try:
                while True:
                    event = await task.mailbox.get()
                    if isinstance(event, FrameError):
                        raise event
                    yield event
                    if isinstance(event, Outcome):
                        return
            finally:
                task.cancelled = True

    async def close(self) -> None:
        """Finishes all frames, then stops the worker."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._worker.join)

    def _check(self, job: Job) -> tuple[Restorer, int]:
        restorer = self.restorers.get(job.restorer)
        if restorer is None:
            raise invalid(
                "options.restoration.restorer",
                f"unknown restorer {job.restorer!r}, there are: {', '.join(self.restorers)}",
            )
        steps = restorer.default_steps if job.steps is None else job.steps
        if restorer.max_steps and not 1 <= steps <= restorer.max_steps:
            raise invalid(
                "options.restoration.steps",
                f"{steps} steps, {restorer.name} takes 1 to {restorer.max_steps}",
            )
        if job.symbols.shape != (self.models.symbols,):
            raise invalid(
                "symbols",
                f"shape {job.symbols.shape}, the bundle takes k = {self.models.symbols} symbols",
            )
        return restorer, steps if restorer.max_steps else 0

    def _enqueue(self, task: _Task) -> None:
        with self._changed:
            if self._closing:
                raise FrameError(grpc.StatusCode.UNAVAILABLE, None, "the receiver is stopping")
            self._waiting.setdefault(task.job.session, deque()).append(task)
            self._changed.notify()

    # Everything below runs on the worker thread.

    def _work(self) -> None:
        while True:
            newcomers = self._admit()
            if newcomers:
                self._guarded(self._decode, newcomers)
                self._active += [task for task in newcomers if task.trajectory is not None]
            self._drop_ended()
            if self._active:
                self._step_all()
            elif self._closing and not self.queue_depth:
                return

    def _admit(self) -> list[_Task]:
        """Takes waiting frames while there is room, a session at a time; blocks when idle."""
        with self._changed:
            while not (self._active or self._waiting or self._closing):
                self._changed.wait()
            taken: list[_Task] = []
            while self._waiting and len(self._active) + len(taken) < self.max_batch:
                session, tasks = self._waiting.popitem(last=False)
                task = tasks.popleft()
                if tasks:  # to the end of the line
                    self._waiting[session] = tasks
                if not self._ended(task):
                    taken.append(task)
        return taken

    def _ended(self, task: _Task) -> bool:
        """Whether the frame needs no further work; tells its reader if the deadline passed."""
        deadline = task.job.deadline
        if not task.cancelled and deadline is not None and time.monotonic() > deadline:
            task.mailbox.put(
                FrameError(
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    "options.link.timeout_seconds",
                    "the deadline passed before restoration was done",
                )
            )
            return True
        return task.cancelled

    def _drop_ended(self) -> None:
        self._active = [task for task in self._active if not self._ended(task)]

    def _guarded(self, work: Any, tasks: Sequence[_Task]) -> None:
        """Runs ``work`` on the batch; if that fails, on each frame alone, so one fails alone."""
        try:
            work(tasks)
        except Exception as error:
            if len(tasks) > 1:
                for task in tasks:
                    self._guarded(work, [task])
                return
            log.exception("frame %d failed", tasks[0].job.frame_id)
            self._fail(tasks[0], f"{type(error).__name__}: {error}")

    def _fail(self, task: _Task, reason: str) -> None:
        task.mailbox.put(FrameError(grpc.StatusCode.INTERNAL, None, reason))
        task.cancelled = True

    @torch.inference_mode()
    def _decode(self, tasks: Sequence[_Task]) -> None:
        started = time.monotonic()
        device = self.models.device
        z = torch.from_numpy(np.stack([task.job.symbols for task in tasks])).to(device)
        snr_db = torch.tensor([task.job.told_snr_db for task in tasks], device=device)
        images = self.models.decoder(z, snr_db)
        pixels = to_pixels(images)
        finished = time.monotonic()
        for task, image, decoded in zip(tasks, images, pixels, strict=True):
            task.started = started
            task.decode_seconds = finished - started
            task.decoded = decoded
            noise = DiffusionNoise(task.job.seed, task.job.frame_id)
            task.trajectory = task.restorer.start(image, task.job.told_snr_db, task.steps, noise)
            if task.trajectory.done:
                self._finish(task)

    def _step_all(self) -> None:
        """One step for every frame in work, in as few batches as are compatible."""
        groups: dict[Hashable, list[_Task]] = {}
        for task in self._active:
            if not task.cancelled:
                groups.setdefault(task.batch_key, []).append(task)
        for tasks in groups.values():
            self._guarded(self._step, tasks)

    def _step(self, tasks: Sequence[_Task]) -> None:
        trajectories = [task.trajectory for task in tasks if task.trajectory is not None]
        started = time.monotonic()
        tasks[0].restorer.step(trajectories)
        self._on_step(len(tasks), time.monotonic() - started)
        for task, trajectory in zip(tasks, trajectories, strict=True):
            if not torch.isfinite(trajectory.x).all():
                self._fail(task, f"restoration diverged at step {trajectory.position}")
            elif trajectory.done:
                self._finish(task)
            else:
                self._report(task, trajectory)

    def _report(self, task: _Task, trajectory: Trajectory) -> None:
        every = task.job.preview_every
        preview = None
        if every and trajectory.position % every == 0:
            preview = to_pixels(to_unit(trajectory.x0)[None])[0]
            if task.first_preview is None:
                task.first_preview = time.monotonic() - task.arrived
        task.mailbox.put(Update(trajectory.position, trajectory.steps, preview))

    def _finish(self, task: _Task) -> None:
        assert task.trajectory is not None
        restored = task.decoded
        if task.steps:
            restored = to_pixels(to_unit(task.trajectory.x0)[None])[0]
        task.mailbox.put(
            Outcome(
                decoded=task.decoded,
                restored=restored,
                steps=task.steps,
                queue_seconds=task.started - task.arrived,
                decode_seconds=task.decode_seconds,
                restore_seconds=time.monotonic() - task.started - task.decode_seconds,
                first_preview_seconds=task.first_preview,
            )
        )
        task.cancelled = True


def to_pixels(images: Tensor) -> Pixels:
    """RGB in [0, 1], (B, 3, H, W), to uint8, (B, H, W, 3)."""
    rounded = images.mul(255).round().clamp(0, 255).to(torch.uint8)
    pixels: Pixels = rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels
