"""Who shares a batch with whom and when, with a restorer whose steps the test lets through."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import grpc
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from receiver.engine import Engine, Job, Outcome, Update
from receiver.restorers.base import Trajectory, draw_batch, draw_like, from_unit, to_unit
from shared.draws import DiffusionNoise, Purpose, generator, unit_complex_normal
from shared.errors import FrameError
from tests.tiny import SYMBOLS, make_models

MODELS = replace(make_models(), inns={}, prior=None, guidance=None)


class Stepwise:
    """A restorer without networks; ``hold`` makes each step wait for :meth:`allow`.

    A frame's x is mixed with its own draws at each step, so that a mix-up of frames, a step too
    many or a wrong draw changes its image.
    """

    name = "stepwise"
    summary = "for tests"
    default_steps = 5
    max_steps = 1000

    def __init__(self, hold: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.spoilt: set[int] = set()
        self._hold = hold
        self._allowed = threading.Semaphore(0)

    def allow(self, steps: int) -> None:
        for _ in range(steps):
            self._allowed.release()

    def start(self, y: Tensor, snr_db: float, steps: int, noise: DiffusionNoise) -> Trajectory:
        image = from_unit(y)
        return Trajectory(
            x=draw_like(image, noise),
            x0=image,
            guide=image,
            snr_db=snr_db,
            times=[*range(steps, 0, -1)],
            noise=noise,
        )

    def batch_key(self, trajectory: Trajectory) -> Hashable:
        return None

    def step(self, batch: Sequence[Trajectory]) -> None:
        self.batches.append([each.noise.frame_id for each in batch])
        if self._hold:
            assert self._allowed.acquire(timeout=20)
        if self.spoilt & {each.noise.frame_id for each in batch}:
            raise RuntimeError("made to fail")
        mixed = 0.7 * torch.stack([each.x for each in batch]) + 0.3 * draw_batch(batch)
        for each, x in zip(batch, mixed, strict=True):
            each.x, each.x0 = x, x
            each.position += 1

    async def begun(self, batches: int) -> list[int]:
        """Waits until so many batches have begun; frames in the last of them."""
        async with asyncio.timeout(20):
            while len(self.batches) < batches:
                await asyncio.sleep(0.001)
        return self.batches[batches - 1]


@asynccontextmanager
async def serving(
    restorer: Stepwise, max_batch: int = 4, queue_limit: int = 8
) -> AsyncIterator[Engine]:
    engine = Engine(MODELS, max_batch=max_batch, queue_limit=queue_limit)
    engine.restorers["stepwise"] = restorer
    try:
        yield engine
    finally:
        restorer.allow(10_000)
        await engine.close()


def symbols(frame_id: int) -> NDArray[np.complex64]:
    return unit_complex_normal(generator(1, frame_id, Purpose.CHANNEL), SYMBOLS)


def job(frame_id: int, steps: int = 5, session: str = "", **options: object) -> Job:
    restorer = "stepwise" if steps else "none"
    fields = {"seed": 3, "symbols": symbols(frame_id), "told_snr_db": 0.0, "restorer": restorer}
    return Job(frame_id=frame_id, steps=steps, session=session, **(fields | options))  # type: ignore[arg-type]


async def outcome(engine: Engine, wanted: Job) -> Outcome:
    last = [event async for event in engine.run(wanted)][-1]
    assert isinstance(last, Outcome)
    return last


async def started(engine: Engine, wanted: Job) -> asyncio.Task[Outcome]:
    """A frame that has arrived at the engine's queue."""
    task = asyncio.create_task(outcome(engine, wanted))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


def expected(frame_id: int, steps: int) -> NDArray[np.uint8]:
    """The restored image by the formula, without an engine."""
    noise = DiffusionNoise(3, frame_id)
    x = torch.from_numpy(noise.draw(0, (3, 32, 32)))
    for step in range(1, steps + 1):
        x = 0.7 * x + 0.3 * torch.from_numpy(noise.draw(step, (3, 32, 32)))
    pixels: NDArray[np.uint8] = to_unit(x).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels


async def test_a_newcomer_joins_at_the_next_step() -> None:
    restorer = Stepwise(hold=True)
    async with serving(restorer) as engine:
        first = await started(engine, job(1))
        assert await restorer.begun(1) == [1]
        second = await started(engine, job(2))
        restorer.allow(1)
        assert await restorer.begun(2) == [1, 2]
        restorer.allow(100)
        await asyncio.gather(first, second)
    assert restorer.batches == [[1], [1, 2], [1, 2], [1, 2], [1, 2], [2]]


async def test_a_cancelled_frame_is_in_no_further_step_and_its_place_is_free() -> None:
    restorer = Stepwise(hold=True)
    async with serving(restorer, max_batch=2) as engine:
        tasks = [await started(engine, job(i)) for i in (1, 2, 3)]
        restorer.allow(1)
        assert await restorer.begun(2) == [1, 2]
        tasks[0].cancel()
        with suppress(asyncio.CancelledError):
            await tasks[0]
        restorer.allow(1)
        assert await restorer.begun(3) == [2, 3]


async def test_a_deadline_is_looked_at_before_every_step() -> None:
    restorer = Stepwise(hold=True)
    async with serving(restorer) as engine:
        late = await started(engine, job(1, deadline=time.monotonic() + 0.1))
        other = await started(engine, job(2))
        assert await restorer.begun(1)
        await asyncio.sleep(0.15)
        restorer.allow(100)
        with pytest.raises(FrameError) as error:
            await late
        assert error.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        await other
    assert all(1 not in batch for batch in restorer.batches[2:])


async def test_deadlines_end_frames_that_wait() -> None:
    """In the engine's queue, and for a place in it."""
    restorer = Stepwise(hold=True)
    async with serving(restorer, max_batch=1, queue_limit=1) as engine:
        first = await started(engine, job(1))
        await restorer.begun(1)
        queued = await started(engine, job(2, deadline=time.monotonic() + 0.1))
        outside = await started(engine, job(3, deadline=time.monotonic() + 0.1))
        with pytest.raises(FrameError) as error:
            await outside
        assert error.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        restorer.allow(1)
        with pytest.raises(FrameError):
            await queued
        assert not first.done()


async def test_cancelled_frames_do_not_fill_the_queue() -> None:
    restorer = Stepwise(hold=True)
    async with serving(restorer, max_batch=1, queue_limit=2) as engine:
        await started(engine, job(0))
        await restorer.begun(1)
        for i in range(1, 30):
            task = await started(engine, job(i))
            assert engine.queue_depth == 1
            task.cancel()
            await asyncio.wait([task])
        assert engine.queue_depth == 0


async def test_a_failing_frame_leaves_its_batch_mates_where_they_are() -> None:
    restorer = Stepwise()
    restorer.spoilt = {2}
    async with serving(restorer) as engine:
        results = await asyncio.gather(
            *(outcome(engine, job(i)) for i in range(4)), return_exceptions=True
        )
    for i, result in enumerate(results):
        if i == 2:
            assert isinstance(result, FrameError)
            assert result.code is grpc.StatusCode.INTERNAL
        else:
            assert isinstance(result, Outcome)
            assert np.array_equal(result.restored, expected(i, 5))


async def test_a_fault_of_the_engine_ends_no_frame_in_silence() -> None:
    class Keyless(Stepwise):
        def batch_key(self, trajectory: Trajectory) -> Hashable:
            raise RuntimeError("made to fail")

    async with serving(Keyless()) as engine:
        with pytest.raises(FrameError):
            await outcome(engine, job(1))
        assert (await outcome(engine, job(2, steps=0))).steps == 0, "the engine goes on"


async def test_a_greedy_session_makes_room_at_the_next_step() -> None:
    """Its newest frame pauses for another session's first, and gets the image it would have."""
    restorer = Stepwise(hold=True)
    async with serving(restorer, max_batch=3) as engine:
        greedy = [await started(engine, job(i, session="greedy")) for i in range(5)]
        restorer.allow(1)
        assert await restorer.begun(2) == [0, 1, 2]
        modest = await started(engine, job(9, steps=2, session="modest"))
        restorer.allow(1)
        assert await restorer.begun(3) == [0, 1, 9]
        restorer.allow(2)
        assert await restorer.begun(5) == [0, 1, 2], "the paused frame goes on first"
        restorer.allow(1000)
        await modest
        for i, result in enumerate(await asyncio.gather(*greedy)):
            assert np.array_equal(result.restored, expected(i, 5))


async def test_sessions_share_a_batch_evenly_under_load() -> None:
    restorer = Stepwise(hold=True)
    async with serving(restorer, max_batch=4, queue_limit=60) as engine:
        for i in range(20):
            await started(engine, job(i, steps=50, session="a"))
        for i in range(20, 24):
            await started(engine, job(i, steps=50, session="b"))
        restorer.allow(1)
        assert sorted(await restorer.begun(2)) == [0, 1, 20, 21]
        await started(engine, job(30, steps=50, session="c"))
        restorer.allow(1)
        batch = await restorer.begun(3)
        assert 30 in batch
        assert sum(frame < 20 for frame in batch) >= 1
        assert sum(20 <= frame < 30 for frame in batch) >= 1


async def test_a_full_queue_lets_the_session_with_least_in_first() -> None:
    restorer = Stepwise(hold=True)
    async with serving(restorer, max_batch=1, queue_limit=1) as engine:
        greedy = [await started(engine, job(i, steps=1, session="greedy")) for i in range(6)]
        modest = await started(engine, job(9, steps=1, session="modest"))
        await restorer.begun(1)
        restorer.allow(100)
        await asyncio.gather(*greedy, modest)
    assert [9] in restorer.batches[:3]


async def test_frames_to_decode_only_do_not_wait_for_restorations() -> None:
    restorer = Stepwise(hold=True)
    async with serving(restorer, max_batch=1, queue_limit=1) as engine:
        for i in range(4):  # more than there is room for
            await started(engine, job(i, session="s"))
        await restorer.begun(1)
        quick = await started(engine, job(9, steps=0, session="s"))
        restorer.allow(1)
        assert (await quick).steps == 0
        assert len(restorer.batches) <= 2, "it did not wait for a second step"


async def test_newcomers_wait_for_as_many_as_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that were answered together come back together, if not in the same millisecond."""
    monkeypatch.setattr("receiver.engine.PATIENCE", 1e9)
    monkeypatch.setattr("receiver.engine.PATIENCE_SECONDS", 20)
    restorer = Stepwise(hold=True)
    async with serving(restorer) as engine:
        first = await started(engine, job(0, steps=1))
        assert await restorer.begun(1) == [0]
        others = [await started(engine, job(i, steps=1)) for i in (1, 2)]
        restorer.allow(1)
        await first
        await asyncio.sleep(0.05)
        assert len(restorer.batches) == 1, "frame 0's client may send another"
        others.append(await started(engine, job(3, steps=1)))
        assert await restorer.begun(2) == [1, 2, 3]
        late = await started(engine, job(4, steps=1))
        restorer.allow(1)
        await asyncio.gather(*others)
        await asyncio.sleep(0.05)
        assert len(restorer.batches) == 2
    await late
    assert restorer.batches[2:] == [[4]], "closing ends the wait"


async def test_newcomers_wait_a_share_of_a_turn_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("receiver.engine.PATIENCE_SECONDS", 0.01)
    restorer = Stepwise(hold=True)
    async with serving(restorer) as engine:
        first = await started(engine, job(0, steps=1))
        await restorer.begun(1)
        second = await started(engine, job(1, steps=1))
        restorer.allow(1)
        assert await restorer.begun(2) == [1]
        restorer.allow(1)
        await asyncio.gather(first, second)


async def test_frames_under_way_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("receiver.engine.PATIENCE", 1e9)
    monkeypatch.setattr("receiver.engine.PATIENCE_SECONDS", 20)
    restorer = Stepwise(hold=True)
    async with serving(restorer) as engine:
        long = await started(engine, job(0, steps=3))
        await restorer.begun(1)
        short = await started(engine, job(1, steps=1))
        restorer.allow(2)
        assert await restorer.begun(3) == [0]
        restorer.allow(1)
        await asyncio.gather(long, short)


async def test_updates_without_a_preview_are_sparing_previews_are_not() -> None:
    restorer = Stepwise()
    async with serving(restorer) as engine:
        events = [event async for event in engine.run(job(1, steps=300, preview_every=100))]
    updates = [event for event in events if isinstance(event, Update)]
    assert len(updates) < 50
    assert updates[-1].preview is not None or updates[-1].step < 300


Arrival = tuple[int, str, int, float | None]  # steps, session, milliseconds to wait, cancelled at

arrivals = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.sampled_from("abc"),
        st.integers(0, 3),
        st.none() | st.floats(0, 0.01),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(frames=arrivals, max_batch=st.integers(1, 5), queue_limit=st.integers(1, 4))
def test_whatever_comes_and_goes_every_frame_gets_its_own_image(
    frames: list[Arrival], max_batch: int, queue_limit: int
) -> None:
    restorer = Stepwise()

    async def one(engine: Engine, frame_id: int, arrival: Arrival) -> Outcome | None:
        steps, session, wait, cancelled_at = arrival
        await asyncio.sleep(wait / 1000)
        try:
            async with asyncio.timeout(cancelled_at):
                return await outcome(engine, job(frame_id, steps, session))
        except TimeoutError:
            return None

    async def everything() -> list[Outcome | None]:
        async with serving(restorer, max_batch, queue_limit) as engine:
            results = await asyncio.gather(*(one(engine, *each) for each in enumerate(frames)))
            assert engine.queue_depth == 0
        assert engine.in_flight == 0
        return list(results)

    for frame_id, (result, (steps, *_, cancelled_at)) in enumerate(
        zip(asyncio.run(everything()), frames, strict=True)
    ):
        assert result is not None or cancelled_at is not None
        if result is not None and steps:
            assert np.array_equal(result.restored, expected(frame_id, steps))
        elif result is not None:
            assert np.array_equal(result.restored, result.decoded)
    assert max(map(len, restorer.batches), default=0) <= max_batch
