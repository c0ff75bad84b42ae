"""The engine's invariants, on tiny networks with random weights."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from receiver.engine import Engine, Job, Outcome, Update, _Mailbox, wake
from receiver.models import ReceiverModels
from receiver.restorers.base import Trajectory
from receiver.restorers.commin import CommIN
from shared.draws import Purpose, generator, unit_complex_normal
from shared.errors import FrameError
from tests.tiny import SYMBOLS, make_models


@pytest.fixture(scope="module")
def models() -> ReceiverModels:
    return make_models(attention=True)


@pytest.fixture
async def engine(models: ReceiverModels) -> AsyncIterator[Engine]:
    engine = Engine(models, max_batch=4, queue_limit=4)
    yield engine
    await engine.close()


def symbols(frame_id: int) -> NDArray[np.complex64]:
    return unit_complex_normal(generator(1, frame_id, Purpose.CHANNEL), SYMBOLS)


def job(frame_id: int, **options: object) -> Job:
    defaults: dict[str, object] = {
        "symbols": symbols(frame_id),
        "told_snr_db": float(frame_id % 5),
        "restorer": "commin",
        "steps": 5,
    }
    return Job(frame_id=frame_id, seed=3, **(defaults | options))  # type: ignore[arg-type]


async def outcome(engine: Engine, wanted: Job) -> Outcome:
    events = [event async for event in engine.run(wanted)]
    assert isinstance(events[-1], Outcome)
    assert not any(isinstance(event, Outcome) for event in events[:-1])
    return events[-1]


def assert_same_picture(a: Outcome, b: Outcome) -> None:
    """Equal to float tolerance: at most one grey level."""
    for one, other in ((a.decoded, b.decoded), (a.restored, b.restored)):
        assert np.abs(one.astype(int) - other).max() <= 1


async def test_batch_mates_and_order_change_no_image(engine: Engine) -> None:
    alone = [await outcome(engine, job(i)) for i in range(6)]
    together = await asyncio.gather(*(outcome(engine, job(i)) for i in reversed(range(6))))
    for one, other in zip(alone, reversed(together), strict=True):
        assert_same_picture(one, other)
    different = np.abs(alone[0].restored.astype(int) - alone[1].restored).max()
    assert different > 10, "frames must differ for identity to be tested"


async def test_newcomers_with_other_steps_and_restorers_join(engine: Engine) -> None:
    wanted = [job(0, steps=9), job(1, steps=3), job(2, restorer="none"), job(3, steps=1)]
    alone = [await outcome(engine, each) for each in wanted]

    async def later(each: Job) -> Outcome:
        await asyncio.sleep(0.005 * each.frame_id)
        return await outcome(engine, each)

    for one, other in zip(alone, await asyncio.gather(*map(later, wanted)), strict=True):
        assert_same_picture(one, other)
    assert [each.steps for each in alone] == [9, 3, 0, 1]


async def test_none_gives_the_decoded_image_back(engine: Engine) -> None:
    result = await outcome(engine, job(0, restorer="none"))
    assert np.array_equal(result.restored, result.decoded)


async def test_previews_come_at_their_cadence(engine: Engine) -> None:
    events = [event async for event in engine.run(job(0, steps=7, preview_every=3))]
    previews = [e.step for e in events if isinstance(e, Update) and e.preview is not None]
    assert previews == [0, 3, 6]
    assert isinstance(events[-1], Outcome)
    assert events[-1].first_preview_seconds is not None


async def test_cancelling_frees_the_place_within_a_step(engine: Engine) -> None:
    run = engine.run(job(0, steps=1000))
    await anext(run)
    await run.aclose()
    steps_after = 0
    while engine.in_flight:
        steps_after += 1
        await asyncio.sleep(0.05)
        assert steps_after < 40
    await outcome(engine, job(1))


async def test_a_deadline_ends_one_frame_alone(engine: Engine) -> None:
    late = job(0, steps=1000, deadline=time.monotonic() + 0.2)
    good = asyncio.create_task(outcome(engine, job(1)))
    with pytest.raises(FrameError) as error:
        await outcome(engine, late)
    assert error.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await good


@pytest.mark.parametrize(
    ("options", "field", "text"),
    [
        ({"restorer": "magic"}, "restorer", "there are: none"),
        ({"steps": 0}, "steps", "1 to 1000"),
        ({"steps": 1001}, "steps", "1 to 1000"),
        ({"symbols": np.zeros(65, np.complex64)}, "symbols", "k = 64"),
    ],
)
async def test_bad_jobs_name_field_and_limit(
    engine: Engine, options: dict[str, object], field: str, text: str
) -> None:
    with pytest.raises(FrameError) as error:
        await outcome(engine, job(0, **options))
    assert error.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert field in str(error.value.field)
    assert text in error.value.description


async def test_a_failing_image_fails_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    step = CommIN.step

    def fails_for_frame_2(self: CommIN, batch: Sequence[Trajectory]) -> None:
        if any(each.noise.frame_id == 2 for each in batch):
            raise RuntimeError("made to fail")
        step(self, batch)

    alone = [await outcome(engine, job(i)) for i in (0, 1, 3)]
    monkeypatch.setattr(CommIN, "step", fails_for_frame_2)
    results = await asyncio.gather(
        *(outcome(engine, job(i)) for i in range(4)), return_exceptions=True
    )
    failed = results.pop(2)
    assert isinstance(failed, FrameError)
    assert failed.code is grpc.StatusCode.INTERNAL
    for one, other in zip(alone, results, strict=True):
        assert isinstance(other, Outcome)
        assert_same_picture(one, other)


async def test_a_diverging_image_fails_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = CommIN.step

    def spoils_frame_1(self: CommIN, batch: Sequence[Trajectory]) -> None:
        step(self, batch)
        for each in batch:
            if each.noise.frame_id == 1:
                each.x = each.x * float("nan")

    monkeypatch.setattr(CommIN, "step", spoils_frame_1)
    good, bad = await asyncio.gather(
        outcome(engine, job(0)), outcome(engine, job(1)), return_exceptions=True
    )
    assert isinstance(good, Outcome)
    assert isinstance(bad, FrameError)
    assert "diverged at step 1" in bad.description


async def test_sessions_are_served_in_turn(models: ReceiverModels) -> None:
    """A session with many frames waiting does not hold up another's first frame."""
    engine = Engine(models, max_batch=1, queue_limit=16)
    finished: list[str] = []

    async def run(wanted: Job) -> None:
        await outcome(engine, wanted)
        finished.append(wanted.session)

    greedy = [asyncio.create_task(run(job(i, session="greedy"))) for i in range(6)]
    await asyncio.sleep(0)
    modest = asyncio.create_task(run(job(9, session="modest")))
    await asyncio.gather(*greedy, modest)
    assert finished.index("modest") <= 2
    await engine.close()


async def test_a_full_queue_makes_newcomers_wait(models: ReceiverModels) -> None:
    engine = Engine(models, max_batch=1, queue_limit=1)
    tasks = [asyncio.create_task(outcome(engine, job(i))) for i in range(8)]
    deepest = 0
    while not all(task.done() for task in tasks):
        deepest = max(deepest, engine.queue_depth + engine.in_flight)
        await asyncio.sleep(0.001)
    assert deepest <= 3  # a frame may move between the two readings
    assert len(await asyncio.gather(*tasks)) == 8
    await engine.close()


async def test_closing_finishes_what_was_accepted(models: ReceiverModels) -> None:
    engine = Engine(models, max_batch=2, queue_limit=8)
    tasks = [asyncio.create_task(outcome(engine, job(i))) for i in range(5)]
    await asyncio.sleep(0)
    await engine.close()
    assert len(await asyncio.gather(*tasks)) == 5
    with pytest.raises(FrameError) as error:
        await outcome(engine, job(9))
    assert error.value.code is grpc.StatusCode.UNAVAILABLE


async def test_a_wake_up_for_an_update_that_was_replaced_finds_none() -> None:
    """A put wakes the reader late; by then the reader may have taken what it put."""
    mailbox = _Mailbox()
    reading = asyncio.create_task(mailbox.get())
    await asyncio.sleep(0)
    mailbox.ready.set()
    await asyncio.sleep(0.01)
    assert not reading.done()
    mailbox.put(Update(1, 2, None))
    wake([mailbox])
    assert await reading == Update(1, 2, None)
