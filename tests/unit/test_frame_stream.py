"""Frames over calls that break, against a server that does as it is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest

from commin.backoff import Backoff
from commin.frame_stream import FrameStream
from commin.v1 import channel_pb2, channel_pb2_grpc, frame_pb2
from shared.errors import unavailable

Behaviour = Callable[[AsyncIterator, grpc.aio.ServicerContext], Awaitable[None]]
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Scripted(channel_pb2_grpc.ChannelServiceServicer):
    """Treats each call as the next behaviour says, and the last one for ever."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.behaviours = list(behaviours)
        self.seen: list[list[int]] = []

    async def Propagate(self, requests: AsyncIterator, context: grpc.aio.ServicerContext) -> None:
        await context.send_initial_metadata(())
        behave = self.behaviours[0]
        if len(self.behaviours) > 1:
            self.behaviours.pop(0)
        self.seen.append([])
        await behave(self._noted(requests), context)

    async def _noted(self, requests: AsyncIterator) -> AsyncIterator:
        async for request in requests:
            self.seen[-1].append(request.frame_id)
            yield request


def done(frame_id: int) -> channel_pb2.PropagateResponse:
    event = frame_pb2.FrameEvent(frame_id=frame_id, result=frame_pb2.Result(restorer="x"))
    return channel_pb2.PropagateResponse(event=event)


async def answer_all(requests: AsyncIterator, context: grpc.aio.ServicerContext) -> None:
    async for request in requests:
        await context.write(done(request.frame_id))


async def break_off(requests: AsyncIterator, context: grpc.aio.ServicerContext) -> None:
    """Answers frame 0, then goes."""
    await context.write(done((await anext(requests)).frame_id))
    await anext(requests)
    await context.abort(UNAVAILABLE, "going")


async def end_early(requests: AsyncIterator, context: grpc.aio.ServicerContext) -> None:
    await anext(requests)


async def report_unavailable(requests: AsyncIterator, context: grpc.aio.ServicerContext) -> None:
    """Cannot finish a frame at first, in-band."""
    failed = set()
    async for request in requests:
        frame_id = request.frame_id
        event = unavailable("draining").to_event(frame_id)
        first = frame_id not in failed
        failed.add(frame_id)
        response = channel_pb2.PropagateResponse(event=event) if first else done(frame_id)
        await context.write(response)


async def refuse(requests: AsyncIterator, context: grpc.aio.ServicerContext) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")


@contextlib.asynccontextmanager
async def streaming(
    *behaviours: Behaviour, **options: object
) -> AsyncIterator[tuple[Scripted, FrameStream[channel_pb2.PropagateRequest]]]:
    server = grpc.aio.server()
    servicer = Scripted(*behaviours)
    channel_pb2_grpc.add_ChannelServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = channel_pb2_grpc.ChannelServiceStub(channel)
        stream = FrameStream(lambda: stub.Propagate(), "the peer", **options)
        async with stream.running():
            yield servicer, stream
    await server.stop(None)


async def send(
    stream: FrameStream[channel_pb2.PropagateRequest], frame_id: int
) -> frame_pb2.FrameEvent:
    request = channel_pb2.PropagateRequest(frame_id=frame_id)
    return await stream.exchange(frame_id, lambda: request, lambda _: None)


@pytest.mark.parametrize("trouble", [break_off, end_early, report_unavailable])
async def test_what_is_unanswered_is_sent_again(trouble: Behaviour) -> None:
    resent = []
    again = report_unavailable if trouble is report_unavailable else answer_all
    async with streaming(trouble, again, on_resend=lambda: resent.append(1)) as (peer, stream):
        events = await asyncio.gather(*(send(stream, frame_id) for frame_id in range(5)))
    assert [event.frame_id for event in events] == list(range(5))
    assert all(event.HasField("result") for event in events)
    assert resent
    if trouble is break_off:
        assert 0 not in peer.seen[1], "an answered frame was sent again"


async def test_a_refusal_fails_the_frames_and_not_the_stream() -> None:
    async with streaming(refuse, answer_all) as (_, stream):
        failed = await send(stream, 1)
        succeeded = await send(stream, 2)
    assert failed.error.code == grpc.StatusCode.UNAUTHENTICATED.value[0]
    assert "the peer: UNAUTHENTICATED: who are you?" in failed.error.message
    assert succeeded.HasField("result")


async def test_a_link_lost_for_too_long_is_given_up() -> None:
    channel = grpc.aio.insecure_channel("127.0.0.1:1")
    stub = channel_pb2_grpc.ChannelServiceStub(channel)
    stream = FrameStream(lambda: stub.Propagate(), "the peer", give_up_seconds=0.5)
    async with asyncio.timeout(10), stream.running():
        event = await send(stream, 1)
    await channel.close()
    assert event.error.code == UNAVAILABLE.value[0]
    assert "the peer: UNAVAILABLE" in event.error.message


async def test_leaving_does_not_wait_for_what_nobody_waits_for() -> None:
    async def never_answer(requests: AsyncIterator, context: grpc.aio.ServicerContext) -> None:
        async for _ in requests:
            pass
        await asyncio.sleep(60)

    async with asyncio.timeout(5), streaming(never_answer) as (_, stream):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await send(stream, 1)


async def test_progress_reaches_its_frame_only() -> None:
    async def progress(requests: AsyncIterator, context: grpc.aio.ServicerContext) -> None:
        async for request in requests:
            for step in (1, 2):
                event = frame_pb2.FrameEvent(
                    frame_id=request.frame_id, progress=frame_pb2.Progress(step=step, steps=2)
                )
                await context.write(channel_pb2.PropagateResponse(event=event))
            stray = frame_pb2.FrameEvent(frame_id=99, progress=frame_pb2.Progress(step=1))
            await context.write(channel_pb2.PropagateResponse(event=stray))
            await context.write(done(request.frame_id))

    seen: list[tuple[int, int]] = []
    async with streaming(progress) as (_, stream):
        request = channel_pb2.PropagateRequest(frame_id=3)
        await stream.exchange(
            3, lambda: request, lambda event: seen.append((event.frame_id, event.progress.step))
        )
    assert seen == [(3, 1), (3, 2)]


def test_waits_grow_to_a_limit_and_begin_anew() -> None:
    backoff = Backoff(first_seconds=0.1, longest_seconds=2)
    waits = [backoff.next_wait() for _ in range(40)]
    for attempt, wait in enumerate(waits):
        ceiling = min(2.0, 0.1 * 2**attempt)
        assert ceiling / 10 <= wait <= ceiling
    backoff.reset()
    assert backoff.next_wait() <= 0.1
