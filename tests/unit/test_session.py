"""Outboxes and the life of work in flight."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from grpc import StatusCode

from commin import tensors
from commin.v1 import frame_pb2
from shared.errors import FrameError, invalid
from shared.lifecycle import Lifecycle
from shared.session import Outbox, status_name


def progress(frame_id: int, step: int, preview: bool = False) -> frame_pb2.FrameEvent:
    event = frame_pb2.FrameEvent(frame_id=frame_id)
    event.progress.step = step
    if preview:
        event.progress.preview.CopyFrom(tensors.encode(np.full((1, 1, 3), step, np.uint8)))
    return event


def result(frame_id: int) -> frame_pb2.FrameEvent:
    return frame_pb2.FrameEvent(frame_id=frame_id, result=frame_pb2.Result())


async def drained(outbox: Outbox) -> list[frame_pb2.FrameEvent]:
    outbox.close()
    return [event async for event in outbox.events()]


async def test_progress_that_waits_is_replaced_and_keeps_its_preview() -> None:
    outbox = Outbox()
    for step in range(1, 100):
        outbox.put_progress(progress(1, step, preview=step == 50))
    outbox.put_progress(progress(2, 1))
    first, second = await drained(outbox)
    assert (first.progress.step, first.progress.preview.data) == (99, bytes([50] * 3))
    assert (second.frame_id, second.progress.HasField("preview")) == (2, False)


async def test_last_events_are_never_lost_and_end_progress() -> None:
    outbox = Outbox()
    for frame_id in range(50):
        outbox.put_progress(progress(frame_id, 1))
        outbox.put_last(result(frame_id))
    outbox.put_progress(progress(99, 1))
    events = await drained(outbox)
    assert [event.frame_id for event in events] == [*range(50), 99]
    assert all(event.HasField("result") for event in events[:-1])


async def test_an_empty_outbox_waits() -> None:
    outbox = Outbox()
    taking = asyncio.create_task(anext(outbox.events()))
    await asyncio.sleep(0.01)
    assert not taking.done()
    outbox.put_last(result(4))
    assert (await taking).frame_id == 4


async def test_draining_ends_intake_at_once_and_work_after_the_grace_period() -> None:
    lifecycle = Lifecycle()
    lifecycle.serve()
    interrupted: list[float] = []
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def read() -> bool:
        async with lifecycle.intake() as intake:
            await asyncio.sleep(60)
        return intake.expired()

    async def work() -> None:
        with pytest.raises(FrameError) as caught:
            async with lifecycle.work():
                await asyncio.sleep(60)
        assert caught.value.code is StatusCode.UNAVAILABLE
        interrupted.append(loop.time() - began)

    reading, working = asyncio.create_task(read()), asyncio.create_task(work())
    await asyncio.sleep(0.01)
    await lifecycle.drain(0.2)
    assert await reading
    await working
    assert 0.2 <= interrupted[0] < 5
    async with lifecycle.intake() as intake:  # nothing new after that
        await asyncio.sleep(60)
    assert intake.expired()


async def test_draining_does_not_wait_when_nothing_is_in_flight() -> None:
    lifecycle = Lifecycle()
    async with asyncio.timeout(1):
        await lifecycle.drain(60)


def test_an_error_names_its_code_and_field() -> None:
    event = invalid("options.link.seed", "-1, expected 0 to 2^64 - 1").to_event(7)
    assert event.frame_id == 7
    assert event.error.message == "options.link.seed: -1, expected 0 to 2^64 - 1"
    assert status_name(event) == "INVALID_ARGUMENT"
    assert status_name(result(1)) == "OK"
