"""The channel as a process of its own, between this test and a receiver that writes down.

Needs no torch: `make test-channel` runs it where only the channel's extra is installed.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from channel.awgn import awgn
from channel.noise import add_noise
from commin import tensors
from commin.v1 import (
    channel_pb2,
    channel_pb2_grpc,
    frame_pb2,
    receiver_pb2,
    receiver_pb2_grpc,
    tensor_pb2,
)
from shared.draws import Purpose, generator, unit_complex_normal

K = 64
Symbols = NDArray[np.complex64]
Request = channel_pb2.PropagateRequest
Context = grpc.aio.ServicerContext[Any, Any]


class WritingReceiver(receiver_pb2_grpc.ReceiverServiceServicer):
    """Keeps every request and answers it with a progress event and an empty result."""

    def __init__(self) -> None:
        self.requests: dict[int, receiver_pb2.ReceiveRequest] = {}

    def symbols(self, frame_id: int) -> Symbols:
        tensor = self.requests[frame_id].symbols
        return tensors.decode(
            tensor, dtype=np.complex64, shape=(None,), max_bytes=1 << 20, field="symbols"
        )

    async def Receive(
        self, request: receiver_pb2.ReceiveRequest, context: Context
    ) -> AsyncIterator[receiver_pb2.ReceiveResponse]:
        self.requests[request.frame_id] = request
        event = frame_pb2.FrameEvent(frame_id=request.frame_id)
        event.progress.step = 1
        yield receiver_pb2.ReceiveResponse(event=event)
        event.result.restorer = "none"
        yield receiver_pb2.ReceiveResponse(event=event)

    async def Describe(
        self, request: receiver_pb2.ReceiverServiceDescribeRequest, context: Context
    ) -> receiver_pb2.ReceiverServiceDescribeResponse:
        response = receiver_pb2.ReceiverServiceDescribeResponse()
        response.receiver.device = "pencil"
        return response


@contextmanager
def channel_process(receiver_port: int) -> Iterator[str]:
    """``python -m channel`` in front of the receiver; yields its address."""
    settings = {
        "COMMIN_CHANNEL_RECEIVER": f"127.0.0.1:{receiver_port}",
        "COMMIN_CHANNEL_DEFAULT_SNR_DB": "3",
        "COMMIN_CHANNEL_MIN_SNR_DB": "-20",
        "COMMIN_CHANNEL_MAX_SNR_DB": "40",
        "COMMIN_CHANNEL_MAX_SYMBOLS": "1024",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "channel"], env=os.environ | settings, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout
        yield json.loads(process.stdout.readline())["address"]
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


class Link:
    """A running channel with its stub, and the receiver behind it."""

    def __init__(self, connection: grpc.aio.Channel, receiver: WritingReceiver) -> None:
        self.stub = channel_pb2_grpc.ChannelServiceStub(connection)
        self.receiver = receiver

    async def send(self, requests: Sequence[Request]) -> dict[int, frame_pb2.FrameEvent]:
        """Sends all on one stream; returns each frame's last event."""
        last: dict[int, frame_pb2.FrameEvent] = {}
        async for response in self.stub.Propagate(iter(requests)):
            if not response.event.HasField("progress"):
                assert response.event.frame_id not in last, "a frame ended twice"
                last[response.event.frame_id] = response.event
        return last


@asynccontextmanager
async def running_link() -> AsyncIterator[Link]:
    receiver = WritingReceiver()
    server = grpc.aio.server()
    receiver_pb2_grpc.add_ReceiverServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with channel_process(port) as address:
            async with grpc.aio.insecure_channel(address) as connection:
                yield Link(connection, receiver)
    finally:
        await server.stop(None)


def unit_symbols(frame_id: int, k: int = K) -> Symbols:
    phases = np.random.default_rng(frame_id).uniform(0, 2 * np.pi, k)
    return np.asarray(np.exp(1j * phases), np.complex64)


def frame(frame_id: int, snr_db: float | None = 0.0, seed: int = 11, k: int = K) -> Request:
    request = Request(frame_id=frame_id, symbols=tensors.encode(unit_symbols(frame_id, k)))
    request.options.link.seed = seed
    request.options.link.told_snr_db = 0.0
    if snr_db is not None:
        request.options.channel.snr_db = snr_db
    return request


async def test_frames_carry_their_own_noise_whatever_goes_with_them() -> None:
    """The same frame, alone, among others and in another order: the same bits each time."""
    seen: list[dict[int, bytes]] = []
    async with running_link() as link:
        for order in (range(12), reversed(range(12)), random.Random(0).sample(range(12), 5), [7]):
            ids = list(order)
            events = await link.send([frame(i, snr_db=float(i)) for i in ids])
            assert sorted(events) == sorted(ids)
            assert all(event.HasField("result") for event in events.values())
            seen.append({i: link.receiver.symbols(i).tobytes() for i in ids})
    for run in seen:
        for frame_id, bits in run.items():
            noise = unit_complex_normal(generator(11, frame_id, Purpose.CHANNEL), K)
            wanted = awgn(unit_symbols(frame_id), float(frame_id), noise)
            np.testing.assert_array_equal(np.frombuffer(bits, np.complex64), wanted)


async def test_the_report_is_of_the_noise_that_was_added() -> None:
    async with running_link() as link:
        events = await link.send([frame(i, snr_db=snr) for i, snr in enumerate((-5.0, 5.0, 20.0))])
        for frame_id, snr_db in enumerate((-5.0, 5.0, 20.0)):
            result = events[frame_id].result
            z = unit_symbols(frame_id).astype(np.complex128)
            n = link.receiver.symbols(frame_id) - z
            realised = 10 * np.log10((np.abs(z) ** 2).sum() / (np.abs(n) ** 2).sum())
            assert result.channel.snr_db == snr_db
            assert result.channel.realised_snr_db == pytest.approx(realised, abs=1e-3)
            assert result.channel.realised_snr_db != pytest.approx(snr_db, abs=1e-6)
            assert link.receiver.requests[frame_id].options.channel.snr_db == snr_db
            assert result.timings.propagate_seconds > 0


async def test_the_default_snr_is_for_frames_without_one_and_changes_while_running() -> None:
    async with running_link() as link:
        before = await link.send([frame(0, snr_db=None), frame(1, snr_db=1.0)])
        answer = await link.stub.Configure(channel_pb2.ConfigureRequest(default_snr_db=-4.5))
        after = await link.send([frame(0, snr_db=None), frame(1, snr_db=1.0)])
        with pytest.raises(grpc.aio.AioRpcError, match="100 dB, this channel takes -20 to 40 dB"):
            await link.stub.Configure(channel_pb2.ConfigureRequest(default_snr_db=100))
        described = await link.stub.Describe(channel_pb2.ChannelServiceDescribeRequest())
    assert [before[i].result.channel.snr_db for i in (0, 1)] == [3.0, 1.0]
    assert [after[i].result.channel.snr_db for i in (0, 1)] == [-4.5, 1.0]
    assert answer.channel.default_snr_db == described.channel.default_snr_db == -4.5
    assert described.receiver.device == "pencil"


def corrupted() -> dict[str, tuple[Request, str, str]]:
    """Frames that must fail, by what is wrong: the request, the field blamed, and a word of why."""
    symbols = unit_symbols(0)

    def with_symbols(array: NDArray[Any]) -> Request:
        request = frame(0)
        request.symbols.CopyFrom(tensors.encode(array))
        return request

    cases = {
        "float32": (with_symbols(np.ones(K, np.float32)), "symbols", "DTYPE_FLOAT32"),
        "two axes": (with_symbols(symbols.reshape(8, 8)), "symbols", "2 axes"),
        "none": (with_symbols(symbols[:0]), "symbols", "0 symbols"),
        "too many": (frame(0, k=1025), "symbols", "8192 bytes"),
        "zeros": (with_symbols(np.zeros(K, np.complex64)), "symbols", "average power 0"),
        "no symbols": (frame(0), "symbols", "DTYPE_UNSPECIFIED"),
        "short": (frame(0), "symbols", "needs 512"),
        "negative axis": (frame(0), "symbols", "(-64,)"),
        "low SNR": (frame(0, snr_db=-20.5), "options.channel.snr_db", "-20 to 40"),
        "high SNR": (frame(0, snr_db=41.0), "options.channel.snr_db", "-20 to 40"),
        "no seed": (frame(0), "options.link.seed", "not set"),
        "no told SNR": (frame(0), "options.link.told_snr_db", "not set"),
    }
    cases["no symbols"][0].symbols.CopyFrom(tensor_pb2.Tensor())
    cases["short"][0].symbols.data = cases["short"][0].symbols.data[:-1]
    cases["negative axis"][0].symbols.shape[0] = -K
    cases["no seed"][0].options.link.ClearField("seed")
    cases["no told SNR"][0].options.link.ClearField("told_snr_db")
    for number in (math.nan, math.inf, -math.inf):
        bad = symbols.copy()
        bad[3] = number
        cases[f"a symbol {number}"] = (with_symbols(bad), "symbols", "element (3,)")
        cases[f"SNR {number}"] = (frame(0, number), "options.channel.snr_db", f"{number:g} dB")
    for power in (0.0, -1.0, math.nan, math.inf):
        request = frame(0)
        request.power = power
        cases[f"power {power}"] = (request, "power", f"{power:g}")
    return cases


async def test_a_bad_frame_is_answered_by_name_and_the_others_come_back() -> None:
    """All on one stream, each bad frame between two good ones."""
    cases = list(corrupted().values())
    for index, (request, _, _) in enumerate(cases):
        request.frame_id = 2 * index + 1
    good = [frame(2 * index) for index in range(len(cases) + 1)]
    mixed = [good[0]]
    for index, (request, _, _) in enumerate(cases):
        mixed += [request, good[index + 1]]
    async with running_link() as link:
        events = await link.send(mixed)
        assert sorted(link.receiver.requests) == [request.frame_id for request in good]
    assert sorted(events) == list(range(len(mixed)))
    assert all(events[request.frame_id].HasField("result") for request in good)
    for request, field, says in cases:
        error = events[request.frame_id].error
        assert error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert error.message.startswith(f"{field}: "), error.message
        assert says in error.message


@pytest.mark.parametrize("power", [1.0, 0.25, 4.0])
def test_noise_follows_the_power_that_is_stated(power: float) -> None:
    """At twice the amplitude the noise is twice as large, so that the SNR stays."""
    z = unit_symbols(0, 100_000) * np.float32(np.sqrt(power))
    noisy = add_noise(z, 5.0, seed=0, frame_id=0, power=power)
    assert noisy.realised_snr_db == pytest.approx(5.0, abs=0.05)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("COMMIN_CHANNEL_DEFAULT_SNR_DB", "nan", "default_snr_db"),
        ("COMMIN_CHANNEL_DEFAULT_SNR_DB", "99", "max_snr_db 60"),
        ("COMMIN_CHANNEL_PORT", "70000", "65535"),
        ("COMMIN_CHANNEL_MAX_IN_FLIGHT", "none", "max_in_flight"),
    ],
)
def test_settings_that_cannot_be_are_named_in_one_line(name: str, value: str, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "channel"],
        env=os.environ | {name: value},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
