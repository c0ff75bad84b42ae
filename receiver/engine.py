"""Runs many restorations at once on one device, a denoising step at a time.

Frames at different steps, SNRs and seeds share network batches: newcomers join at the next step,
finished ones leave at once. One thread owns the device; the event loop never computes.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import grpc
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from receiver.fairness import FairPlaces, Lines
from receiver.models import ReceiverModels
from receiver.restorers import restorers_for
from receiver.restorers.base import Restorer, Trajectory, to_unit
from shared.draws import DiffusionNoise
from shared.errors import FrameError, invalid

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

PROGRESS_SECONDS = 0.25  # between updates without a preview: a message costs three services time

# How long a batch of newcomers only waits for more: this share of what the last turn took, and so
# many seconds at most. Clients that were answered together send their next frames within
# milliseconds; a turn begun with the first of them alone costs several times its share of a batch.
PATIENCE, PATIENCE_SECONDS = 0.1, 0.05


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
        preview_every: A preview every so many steps, the decoded image being the first; 0 for none.
            A frame that takes no more steps than that has none.
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
        self.loop = asyncio.get_running_loop()
        self.ready = asyncio.Event()
        self._lock = threading.Lock()
        self._update: Update | None = None
        self._final: Outcome | FrameError | None = None

    def put(self, item: Update | Outcome | FrameError) -> None:
        """Called by the worker, which wakes the reader later."""
        with self._lock:
            if not isinstance(item, Update):
                self._final = item
            elif self._update is not None and item.preview is None:
                self._update = Update(item.step, item.steps, self._update.preview)
            else:
                self._update = item

    async def get(self) -> Update | Outcome | FrameError:
        """Waits for the next event."""
        while True:
            await self.ready.wait()
            with self._lock:
                item = self._update or self._final
                self._update = None
                if self._final is None or item is self._final:
                    self.ready.clear()
            if item is not None:  # the wake-up of an update that a newer one replaced finds none
                return item


def wake(mailboxes: Sequence[_Mailbox]) -> None:
    """Tells readers, from the worker's thread, that there is something; one call for many."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Event]] = {}
    for mailbox in mailboxes:
        by_loop.setdefault(mailbox.loop, []).append(mailbox.ready)
    for loop, events in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set_all, events)
        except RuntimeError:  # the readers' loop is closed: nobody is waiting
            log.debug("the readers of %d frames are gone", len(events))


def _set_all(events: Sequence[asyncio.Event]) -> None:
    for event in events:
        event.set()


@dataclass(eq=False)
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
    reported: float = -math.inf
    decoded: Pixels = field(default_factory=lambda: np.empty(0, np.uint8))
    trajectory: Trajectory | None = None

    @property
    def way(self) -> Trajectory:
        """The trajectory of a frame in work."""
        assert self.trajectory is not None
        return self.trajectory

    @property
    def batch_key(self) -> Hashable:
        """Equal for frames that may share a batch; all have the bundle's image size."""
        return self.restorer.name, self.restorer.batch_key(self.way)

    @property
    def shows(self) -> bool:
        """Whether the step just taken gives an image to show: a preview or the result."""
        every = self.job.preview_every
        return self.way.done or (every > 0 and self.way.position % every == 0)


class _Lane:
    """Where frames of one kind wait; ``places`` bounds those in work with those that wait."""

    def __init__(self, places: int) -> None:
        self.places = FairPlaces(places)
        self.waiting: Lines[_Task] = Lines()


class Engine:
    """Step-level batching of any iterative restorer.

    Sessions share the batch evenly: a newcomer of a session that holds two places fewer than
    another's takes the place of that one's newest frame, which pauses where it is. Frames that
    only have to be decoded need no place in it. Where all frames of a batch ended together, the
    next one waits a moment for their successors.

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
        self._restoring = _Lane(max_batch + queue_limit)
        self._decoding = _Lane(max_batch + queue_limit)
        self._active: list[_Task] = []
        self._posted: list[_Mailbox] = []
        self._expected, self._patience = 0, 0.0
        self._changed = threading.Condition()
        self._closing = False
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)
        self._worker.start()

    @property
    def queue_depth(self) -> int:
        """Frames waiting for work, paused ones included."""
        with self._changed:
            return self._waiting

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
        lane = self._restoring if steps else self._decoding
        await _take_place(lane, job)
        try:
            task = _Task(job, restorer, steps, _Mailbox(), arrived)
            self._enqueue(lane, task)
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
                with self._changed:
                    lane.waiting.remove(job.session, task)
        finally:
            lane.places.leave(job.session)

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

    def _enqueue(self, lane: _Lane, task: _Task) -> None:
        with self._changed:
            if self._closing:
                raise FrameError(grpc.StatusCode.UNAVAILABLE, None, "the receiver is stopping")
            lane.waiting.put(task.job.session, task)
            self._changed.notify()

    @property
    def _waiting(self) -> int:
        """Read it with the lock held."""
        return len(self._restoring.waiting) + len(self._decoding.waiting)

    # Everything below runs on the worker thread.

    def _work(self) -> None:
        while self._wait_for_work():
            try:
                self._take_turn()
            except Exception:  # a fault of ours; frames yet to come shall not suffer
                log.exception("the engine failed")
                for task in self._active:
                    self._fail(task, "the engine failed")
                self._wake_readers()

    def _wait_for_work(self) -> bool:
        """Blocks when idle, and a moment for more of a new batch; false when all work is done."""
        with self._changed:
            while not (self._active or self._waiting):
                if self._closing:
                    return False
                self._changed.wait()
            if not self._active:
                self._changed.wait_for(self._gathered, self._patience)
        return True

    def _gathered(self) -> bool:
        """Whether as many frames wait as ended together: further ones would come as a surprise."""
        return self._closing or self._waiting >= self._expected

    def _take_turn(self) -> None:
        """Lets newcomers in, then takes every frame in work a step further."""
        started = time.monotonic()
        with self._changed:
            self._drop_ended()
            self._share_places()
            self._active += self._take_decoding()
        if newcomers := [task for task in self._active if task.trajectory is None]:
            self._decode(newcomers)
        self._wake_readers()
        groups: dict[Hashable, list[_Task]] = {}
        for task in self._active:
            if not task.cancelled:
                groups.setdefault(task.batch_key, []).append(task)
        for tasks in groups.values():
            self._step(tasks)
            self._wake_readers()
        going = [task for task in self._active if not task.cancelled]
        ended = len(self._active) - len(going)
        self._expected = min(self.queue_depth + ended, self.max_batch)
        self._patience = min(PATIENCE * (time.monotonic() - started), PATIENCE_SECONDS)
        self._active = going

    def _drop_ended(self) -> None:
        """Takes out what was cancelled or is too late, in work or waiting."""
        now = time.monotonic()
        self._active = [task for task in self._active if not self._ended(task, now)]
        for lane in (self._restoring, self._decoding):
            for session, task in lane.waiting:
                if self._ended(task, now):
                    lane.waiting.remove(session, task)

    def _ended(self, task: _Task, now: float) -> bool:
        """Whether the frame needs no further work; tells its reader if the deadline passed."""
        deadline = task.job.deadline
        if not task.cancelled and deadline is not None and now > deadline:
            self._end(task, too_late())
        return task.cancelled

    def _take_decoding(self) -> list[_Task]:
        """Frames that need no steps, up to a batch."""
        waiting, taken = self._decoding.waiting, Counter[str]()
        tasks: list[_Task] = []
        while len(tasks) < self.max_batch:
            session = waiting.next_session(taken)
            if session is None:
                break
            tasks.append(waiting.take(session))
            taken[session] += 1
        return tasks

    def _share_places(self) -> None:
        """Gives free places, and those that a session has in excess, to frames that wait."""
        waiting = self._restoring.waiting
        held = Counter(task.job.session for task in self._active)
        while (session := waiting.next_session(held)) is not None:
            if len(self._active) == self.max_batch:
                richest, places = held.most_common(1)[0]
                if places < held[session] + 2:
                    return
                self._pause_newest(richest)
                held[richest] -= 1
            self._active.append(waiting.take(session))
            held[session] += 1

    def _pause_newest(self, session: str) -> None:
        """The session's newest frame in work waits, first in its line."""
        newest = max(
            (task for task in self._active if task.job.session == session),
            key=lambda task: task.arrived,
        )
        self._active.remove(newest)
        self._restoring.waiting.put_back(session, newest)
        if newest.trajectory is not None:
            newest.trajectory.detach_from_batch()

    def _decode(self, tasks: Sequence[_Task]) -> None:
        started = time.monotonic()
        rows = dict[_Task, tuple[Tensor, Pixels]]()
        self._guarded(lambda batch: rows.update(self._decoded(batch)), tasks)
        finished = time.monotonic()
        for task, (_, pixels) in rows.items():
            task.started, task.decode_seconds = started, finished - started
            task.decoded = pixels
            if not task.steps:
                self._finish(task, pixels)
        starting = [task for task in rows if task.steps]
        self._guarded(lambda batch: self._start(batch, rows), starting)
        for task in starting:
            if not task.cancelled and 0 < task.job.preview_every < task.steps:
                self._report(task, task.decoded)

    @torch.inference_mode()
    def _decoded(self, tasks: Sequence[_Task]) -> dict[_Task, tuple[Tensor, Pixels]]:
        """Decoder outputs, each as a tensor and as pixels."""
        device = self.models.device
        z = torch.from_numpy(np.stack([task.job.symbols for task in tasks])).to(device)
        snr_db = torch.tensor([task.job.told_snr_db for task in tasks], device=device)
        images = self.models.decoder(z, snr_db)
        return dict(zip(tasks, zip(images, to_pixels(images), strict=True), strict=True))

    @torch.inference_mode()
    def _start(self, tasks: Sequence[_Task], rows: Mapping[_Task, tuple[Tensor, Pixels]]) -> None:
        for task in tasks:
            noise = DiffusionNoise(task.job.seed, task.job.frame_id)
            image, snr_db = rows[task][0], task.job.told_snr_db
            task.trajectory = task.restorer.start(image, snr_db, task.steps, noise)

    def _step(self, tasks: Sequence[_Task]) -> None:
        """One step of a batch, and what its readers are told of it."""
        self._guarded(self._advance, tasks)
        going = [task for task in tasks if not task.cancelled]
        shown = [task for task in going if task.shows]
        images = to_pixels(to_unit(stacked(shown, "x0"))) if shown else ()
        pictures = dict(zip(shown, images, strict=True))
        for task in going:
            if task.way.done:
                self._finish(task, pictures[task])
            else:
                self._report(task, pictures.get(task))

    def _advance(self, tasks: Sequence[_Task]) -> None:
        started = time.monotonic()
        tasks[0].restorer.step([task.way for task in tasks])
        # The one wait for the device in a step; it keeps the worker from running ahead of it, so
        # that cancellations and deadlines count within a step.
        finite = stacked(tasks, "x").flatten(1).sum(1).isfinite().tolist()
        self._on_step(len(tasks), time.monotonic() - started)
        for task, fine in zip(tasks, finite, strict=True):
            if not fine:
                self._fail(task, f"restoration diverged at step {task.way.position}")

    def _report(self, task: _Task, preview: Pixels | None) -> None:
        now = time.monotonic()
        if preview is not None and task.first_preview is None:
            task.first_preview = now - task.arrived
        if preview is not None or now - task.reported >= PROGRESS_SECONDS:
            task.reported = now
            self._post(task, Update(task.way.position, task.way.steps, preview))

    def _finish(self, task: _Task, restored: Pixels) -> None:
        outcome = Outcome(
            decoded=task.decoded,
            restored=restored,
            steps=task.steps,
            queue_seconds=task.started - task.arrived,
            decode_seconds=task.decode_seconds,
            restore_seconds=time.monotonic() - task.started - task.decode_seconds,
            first_preview_seconds=task.first_preview,
        )
        self._end(task, outcome)

    def _guarded(self, work: Callable[[Sequence[_Task]], None], tasks: Sequence[_Task]) -> None:
        """Runs ``work`` on the batch; if that fails, on each frame alone, so one fails alone."""
        if not tasks:
            return
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
        self._end(task, FrameError(grpc.StatusCode.INTERNAL, None, reason))

    def _end(self, task: _Task, last: Outcome | FrameError) -> None:
        self._post(task, last)
        task.cancelled = True

    def _post(self, task: _Task, item: Update | Outcome | FrameError) -> None:
        task.mailbox.put(item)
        self._posted.append(task.mailbox)

    def _wake_readers(self) -> None:
        wake(self._posted)
        self._posted = []


async def _take_place(lane: _Lane, job: Job) -> None:
    """Waits for a place, at most until the frame's deadline."""
    left = None if job.deadline is None else job.deadline - time.monotonic()
    try:
        async with asyncio.timeout(left):
            await lane.places.take(job.session)
    except TimeoutError:
        raise too_late() from None


def too_late() -> FrameError:
    """The frame's time is up."""
    return FrameError(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "options.link.timeout_seconds",
        "the deadline passed before restoration was done",
    )


def stacked(tasks: Sequence[_Task], name: Literal["x", "x0"]) -> Tensor:
    """One of the images of each trajectory, (B, 3, H, W)."""
    return torch.stack([getattr(task.way, name) for task in tasks])


def to_pixels(images: Tensor) -> Pixels:
    """RGB in [0, 1], (B, 3, H, W), to uint8, (B, H, W, 3)."""
    rounded = images.mul(255).round().clamp(0, 255).to(torch.uint8)
    pixels: Pixels = rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels
