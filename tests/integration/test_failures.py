"""What breaks in mid-stream, and what becomes of the frames in flight."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

import commin
from commin.v1 import frame_pb2, transmitter_pb2, transmitter_pb2_grpc
from tests.integration.conftest import (
    Process,
    Start,
    ThreeProcesses,
    free_ports,
    metric,
    picture,
    png,
)

LONG = {"restorer": "commin", "steps": 1000}  # seconds, even for the tiny prior


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> float:
    """Waits for a condition; how long that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "waited in vain"
        time.sleep(0.02)
    return time.monotonic() - began


def slow_request(frame_id: int) -> transmitter_pb2.TransmitRequest:
    restoration = frame_pb2.RestorationOptions(restorer="commin", steps=1000)
    options = frame_pb2.FrameOptions(
        channel=frame_pb2.ChannelOptions(snr_db=0), restoration=restoration
    )
    return transmitter_pb2.TransmitRequest(frame_id=frame_id, encoded=png(0), options=options)


@contextlib.contextmanager
def on_progress(act: Callable[[], object]) -> Iterator[Callable[..., None]]:
    """Gives a callback; ``act`` runs beside the block once that is called, and ends with it."""
    progressed = threading.Event()

    def wait_and_act() -> None:
        assert progressed.wait(30), "there was no progress"
        act()

    actor = threading.Thread(target=wait_and_act)
    actor.start()
    try:
        yield lambda *_: progressed.set()
    finally:
        actor.join()


CLIENT = """
import sys, commin, numpy as np
with commin.connect(sys.argv[1]) as link:
    images = [np.zeros((32, 32, 3), np.uint8)] * 4
    for result in link.send(images, snr_db=0, restorer="commin", steps=1000):
        print("unexpectedly done", flush=True)
"""


def test_a_killed_client_frees_the_receiver(link: ThreeProcesses) -> None:
    def in_flight() -> float:
        return metric(link.receiver_metrics, "commin_frames_in_flight")

    cancelled = metric(link.receiver_metrics, 'commin_frames_total{status="CANCELLED"}')
    client = subprocess.Popen([sys.executable, "-c", CLIENT, link.transmitter.address])
    wait_until(lambda: in_flight() == 4)
    client.kill()
    client.wait()
    assert wait_until(lambda: in_flight() == 0) < 2
    with commin.connect(link.transmitter.address) as again:
        (result,) = again.send([picture(0)], snr_db=0, restorer="none")
    assert result.ok
    now = metric(link.receiver_metrics, 'commin_frames_total{status="CANCELLED"}')
    assert now == cancelled + 4


def test_a_cancelled_stream_frees_the_receiver(link: ThreeProcesses) -> None:
    with grpc.insecure_channel(link.transmitter.address) as connection:
        stub = transmitter_pb2_grpc.TransmitterServiceStub(connection)
        call = stub.Transmit(iter([slow_request(1)]))
        assert any(response.event.progress.step >= 1 for response in call), "it is being restored"
        call.cancel()
        wait_until(lambda: metric(link.receiver_metrics, "commin_frames_in_flight") == 0, 2)


@pytest.mark.slow
def test_every_result_arrives_though_the_receiver_was_killed(start: Start, bundle: Path) -> None:
    """And is the undisturbed one, to a grey level.

    Frames that are sent again meet other batch mates, and convolutions of other batch sizes sum in
    another order. The bundle's guidance keeps such a difference as small as it is (tests/tiny.py);
    a wrong seed, frame or step would cost 100 grey levels.
    """
    images = [picture(number) for number in range(12)]
    ports = free_ports(2)
    front = start("transmitter", bundle=bundle, channel=f"127.0.0.1:{ports[0]}")
    start("channel", port=ports[0], receiver=f"127.0.0.1:{ports[1]}").wait_until_serving()
    receiver = start("receiver", bundle=bundle, port=ports[1]).wait_until_serving()
    front.wait_until_serving()
    options = {"snr_db": 0, "seed": 4, "restorer": "commin", "steps": 60, "ordered": True}

    def undisturbed() -> list[commin.Result]:
        with commin.connect(front.address) as client:
            return list(client.send(images, **options))

    reference = undisturbed()

    def break_it() -> None:
        receiver.stop(signal.SIGKILL)
        start("receiver", bundle=bundle, port=ports[1])

    with on_progress(break_it) as callback, commin.connect(front.address) as client:
        results = list(client.send(images, **options, on_progress=callback))
    assert [result.frame_id for result in results] == list(range(12))
    for result, wanted in zip(results, reference, strict=True):
        assert result.ok, result
        difference = result.restored.astype(int) - wanted.restored.astype(int)
        assert np.abs(difference).max() <= 1
        assert result.realised_snr_db == pytest.approx(wanted.realised_snr_db, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("broken", ["channel", "transmitter"])
def test_every_result_arrives_though_a_hop_was_restarted(
    start: Start, bundle: Path, link: ThreeProcesses, broken: str, how: int
) -> None:
    ports = dict(zip(("transmitter", "channel"), free_ports(2), strict=True))

    def start_one(role: str) -> Process:
        settings = {
            "transmitter": {"bundle": bundle, "channel": f"127.0.0.1:{ports['channel']}"},
            "channel": {"receiver": link.receiver.address},
        }[role]
        return start(role, port=ports[role], grace_seconds=0, **settings)

    services = {role: start_one(role) for role in ports}
    for service in services.values():
        service.wait_until_serving()

    def break_it() -> None:
        services[broken].stop(how)
        start_one(broken)

    with (
        on_progress(break_it) as callback,
        commin.connect(services["transmitter"].address, max_in_flight=6) as client,
    ):
        images = map(picture, range(10))
        options = {"snr_db": 0, "restorer": "commin", "steps": 60}
        results = list(client.send(images, **options, on_progress=callback))
    assert [result for result in results if not result.ok] == []
    assert sorted(result.frame_id for result in results) == list(range(10))


@pytest.fixture
def front(
    start: Start, bundle: Path, link: ThreeProcesses, request: pytest.FixtureRequest
) -> Process:
    """A transmitter of one's own before the channel that all share."""
    grace = getattr(request, "param", 60)
    front = start("transmitter", bundle=bundle, channel=link.channel.address, grace_seconds=grace)
    return front.wait_until_serving()


def test_sigterm_finishes_what_is_in_flight(front: Process) -> None:
    stopping = on_progress(front.process.terminate)
    with stopping as callback, commin.connect(front.address) as client:
        images = map(picture, range(4))
        options = {"snr_db": 0, "restorer": "commin", "steps": 60}
        results = list(client.send(images, **options, on_progress=callback))
    assert all(result.ok for result in results)
    assert len(results) == 4
    assert front.process.wait(10) == 0


@pytest.mark.parametrize("front", [0.5], indirect=True)
def test_sigterm_reports_what_it_could_not_finish(front: Process) -> None:
    sent = threading.Event()

    def requests() -> Iterator[transmitter_pb2.TransmitRequest]:
        yield slow_request(1)
        yield slow_request(2)
        sent.wait(30)

    last = {}
    with grpc.insecure_channel(front.address) as connection:
        stub = transmitter_pb2_grpc.TransmitterServiceStub(connection)
        call = stub.Transmit(requests())
        with contextlib.suppress(grpc.RpcError):
            for response in call:
                if response.event.HasField("progress"):
                    front.process.terminate()
                else:
                    last[response.event.frame_id] = response.event
        sent.set()
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert sorted(last) == [1, 2]
    unavailable = grpc.StatusCode.UNAVAILABLE.value[0]
    assert all(event.error.code == unavailable for event in last.values())
    assert front.process.wait(10) == 0
    assert json.loads(front.log[-1])["message"] == "stopped"


def test_a_frame_that_takes_too_long_says_so(link: ThreeProcesses) -> None:
    with commin.connect(link.transmitter.address) as client:
        slow, other = (
            next(client.send([picture(0)], snr_db=0, timeout=timeout, **options))
            for timeout, options in ((0.5, LONG), (30, {"restorer": "none"}))
        )
    assert slow.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert slow.field == "options.link.timeout_seconds"
    assert "0.5 s" in slow.message
    assert other.ok


def test_a_link_without_a_channel_says_so(start: Start, bundle: Path) -> None:
    (port,) = free_ports(1)
    front = start("transmitter", bundle=bundle, channel=f"127.0.0.1:{port}").wait_until_serving()
    with commin.connect(front.address) as client:
        (failure,) = client.send([picture(0)], snr_db=0, timeout=1)
    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert f"the channel at 127.0.0.1:{port}: UNAVAILABLE" in failure.message


@pytest.mark.slow
def test_a_lost_transmitter_fails_all_frames_in_the_end(front: Process) -> None:
    with commin.connect(front.address, reconnect_seconds=1) as client:
        results = client.send(
            map(picture, range(5)),
            snr_db=0,
            **LONG,
            on_progress=lambda *_: front.process.kill(),
        )
        failures = list(results)
    assert len(failures) == 5
    assert {failure.code for failure in failures} == {grpc.StatusCode.UNAVAILABLE}
    assert front.address in failures[0].message
