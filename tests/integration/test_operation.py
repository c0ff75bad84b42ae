"""How services are run: health, reflection, TLS, metrics, bad settings, balancing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import commin
from channel.service import ChannelService
from channel.service import run as run_channel
from channel.settings import ChannelSettings
from commin import tensors
from commin.v1 import (
    channel_pb2,
    channel_pb2_grpc,
    frame_pb2,
    receiver_pb2,
    receiver_pb2_grpc,
)
from receiver.service import ReceiverService
from receiver.settings import ReceiverSettings
from shared.lifecycle import Lifecycle
from shared.server import Server, StartError
from shared.settings import ServiceSettings, load_settings
from shared.telemetry import Telemetry
from tests.integration.conftest import (
    Start,
    ThreeProcesses,
    free_ports,
    metric,
    picture,
)
from tests.tiny import SYMBOLS, make_bundle
from transmitter.service import TransmitterService
from transmitter.settings import TransmitterSettings

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAMES = {
    "transmitter": "commin.v1.TransmitterService",
    "channel": "commin.v1.ChannelService",
    "receiver": "commin.v1.ReceiverService",
}


class Slow:
    """A service that loads when told to."""

    name = "commin.v1.ReceiverService"

    def __init__(self) -> None:
        self.lifecycle = Lifecycle()
        self.telemetry = Telemetry()
        self.loaded = asyncio.Event()

    def register(self, server: grpc.aio.Server) -> None:
        receiver_pb2_grpc.add_ReceiverServiceServicer_to_server(Answering(), server)

    async def load(self) -> None:
        await self.loaded.wait()

    async def close(self) -> None:
        pass


class Answering(receiver_pb2_grpc.ReceiverServiceServicer):
    async def Describe(self, request: object, context: object) -> object:
        return receiver_pb2.ReceiverServiceDescribeResponse()


async def test_health_and_calls_follow_the_life_of_a_service() -> None:
    (port,) = free_ports(1)
    service = Slow()
    server = Server(ServiceSettings(port=port, grace_seconds=30), service)
    starting = asyncio.create_task(server.start())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = receiver_pb2_grpc.ReceiverServiceStub(channel)
        describe = receiver_pb2.ReceiverServiceDescribeRequest()
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=service.name), wait_for_ready=True
        )
        assert (await watch.read()).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError, match="loading"):
            await stub.Describe(describe)
        service.loaded.set()
        assert (await watch.read()).status == SERVING
        await stub.Describe(describe)
        async with service.lifecycle.work():  # a frame is in flight
            stopping = asyncio.create_task(server.stop())
            assert (await watch.read()).status == NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError, match="draining"):
                await stub.Describe(describe)
            assert not stopping.done()
        await stopping
        await starting


def grpcurl(address: str, *arguments: str) -> str:
    command = [Path(sys.executable).with_name("grpcurl"), "-plaintext", *arguments[:-1]]
    ending = [address, *arguments[-1:]]
    done = subprocess.run([*command, *ending], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("role", NAMES)
def test_grpcurl_sees_a_service_from_outside(link: ThreeProcesses, role: str) -> None:
    address = getattr(link, role).address
    listed = grpcurl(address, "list").split()
    assert {NAMES[role], "grpc.health.v1.Health"} <= set(listed)
    described = json.loads(grpcurl(address, f"{NAMES[role]}/Describe"))
    assert described
    assert "rpc Describe" in grpcurl_describe(address, NAMES[role])
    health = json.loads(grpcurl(address, "grpc.health.v1.Health/Check"))
    assert health == {"status": "SERVING"}


def grpcurl_describe(address: str, name: str) -> str:
    command = [Path(sys.executable).with_name("grpcurl"), "-plaintext", address, "describe", name]
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def test_reflection_is_off_unless_asked_for(start: Start) -> None:
    channel = start("channel").wait_until_serving()
    command = [Path(sys.executable).with_name("grpcurl"), "-plaintext", channel.address, "list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "does not support the reflection API" in done.stderr


def test_metrics_count_what_was_sent(start: Start) -> None:
    (metrics,) = free_ports(1)
    channel = start("channel", metrics_port=metrics, receiver="127.0.0.1:9").wait_until_serving()
    good = to_propagate(1)
    good.options.link.timeout_seconds = 0.5
    with grpc.insecure_channel(channel.address) as connection:
        stub = channel_pb2_grpc.ChannelServiceStub(connection)
        events = list(stub.Propagate(iter([good, channel_pb2.PropagateRequest()])))
    assert len(events) == 2
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics") as response:
        page = response.read().decode()
    for line in (
        'commin_frames_total{status="DEADLINE_EXCEEDED"} 1.0',
        'commin_frames_total{status="INVALID_ARGUMENT"} 1.0',
        "commin_frames_in_flight 0.0",
        'commin_calls_total{method="Propagate",status="OK"} 1.0',
        'commin_snr_decibels_bucket{kind="configured",le="1.0"} 0.0',
        'commin_snr_decibels_bucket{kind="configured",le="3.0"} 1.0',
        "commin_noise_power_ratio_count 1.0",
        'commin_stage_duration_seconds_count{stage="propagate"} 1.0',
        'commin_message_size_bytes_count{direction="received"} 2.0',
        "commin_default_snr_decibels 0.0",
        f"commin_symbols_total {SYMBOLS}.0",
    ):
        assert line in page


def to_propagate(frame_id: int) -> channel_pb2.PropagateRequest:
    options = frame_pb2.FrameOptions(
        channel=frame_pb2.ChannelOptions(snr_db=2),
        link=frame_pb2.LinkOptions(told_snr_db=2, seed=1),
        restoration=frame_pb2.RestorationOptions(restorer="none"),
    )
    symbols = tensors.encode(np.ones(SYMBOLS, np.complex64))
    return channel_pb2.PropagateRequest(frame_id=frame_id, symbols=symbols, options=options)


@pytest.mark.slow
def test_frames_are_spread_over_replicas(start: Start, bundle: Path, link: ThreeProcesses) -> None:
    (metrics,) = free_ports(1)
    replica = start("receiver", bundle=bundle, metrics_port=metrics).wait_until_serving()
    both = f"ipv4:{link.receiver.address},{replica.address}"
    channel = start("channel", receiver=both).wait_until_serving()

    def send(frames: int) -> None:
        requests = [to_propagate(frame_id) for frame_id in range(frames)]
        responses = list(stub.Propagate(iter(requests), timeout=60))
        assert sum(each.event.HasField("result") for each in responses) == frames

    with grpc.insecure_channel(channel.address) as connection:
        stub = channel_pb2_grpc.ChannelServiceStub(connection)
        deadline = time.monotonic() + 30
        while not metric(metrics, "commin_frames_total"):  # until both are connected to
            assert time.monotonic() < deadline, "the replica never got a frame"
            send(1)
        before = metric(metrics, "commin_frames_total")
        send(20)
        share = metric(metrics, "commin_frames_total") - before
        assert 5 <= share <= 15
        replica.stop()
        send(4)


BAD_STARTS = {
    "port": ({"port": 70000}, "COMMIN_CHANNEL_PORT): Input should be less than or equal to 65535"),
    "unknown": ({"ports": 1}, "ports"),
    "snr": ({"default_snr_db": 99}, "default_snr_db 99 must lie between"),
    "nan": ({"max_snr_db": "nan"}, "COMMIN_CHANNEL_MAX_SNR_DB"),
    "tls": ({"tls": {"cert": "x.pem"}}, "cert and key go together"),
    "tls files": ({"tls": {"cert": "/no.pem", "key": "/no.key"}}, "/no.pem"),
}


@pytest.mark.parametrize("case", BAD_STARTS)
def test_bad_settings_are_refused_in_one_line(case: str) -> None:
    settings, text = BAD_STARTS[case]
    with pytest.raises(SystemExit) as caught:
        run_channel(load_settings(ChannelSettings, **settings))
    message = str(caught.value.code)
    assert "\n" not in message
    assert text in message


def refusal(role: str, **settings: object) -> str:
    """What a service that does not start prints."""
    prefix = f"COMMIN_{role.upper()}_"
    variables = {f"{prefix}{name.upper()}": str(value) for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "-m", role],
        env=os.environ | variables,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_tampered_bundle_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path)
    weights = folder / "decoder.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    line = refusal("receiver", bundle=folder)
    assert line.startswith("commin receiver: bundle")
    assert "decoder.safetensors has sha256" in line


async def test_a_receiver_names_what_it_cannot_use(bundle: Path) -> None:
    for settings, text in (
        ({"bundle": Path("/nonexistent")}, "bundle /nonexistent: no readable bundle.json"),
        ({"bundle": bundle, "device": "abacus"}, "abacus"),
        ({"bundle": bundle, "default_restorer": "magic"}, "'magic' is not among"),
    ):
        service = ReceiverService(ReceiverSettings(**settings))
        with pytest.raises(StartError, match=re.escape(text)):
            await Server(ServiceSettings(), service).start()


def test_a_port_that_is_taken_is_refused(link: ThreeProcesses) -> None:
    port = link.channel.address.rpartition(":")[2]
    line = refusal("channel", port=port)
    assert line.startswith(f"commin channel: cannot listen on 127.0.0.1:{port}")
    assert "in use" in line


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, and a certificate for localhost that it signed; another CA that signed nothing."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    for name in ("ca", "stranger"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
        openssl("req", "-x509", *key, "-subj", f"/CN={name}", *files)
    names = ("-subj", "/CN=link", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", "link.key", "-out", "link.pem")
    openssl("req", "-x509", *key, *names, *signed)
    return folder


async def test_mutual_tls_on_every_hop(bundle: Path, certificates: Path) -> None:
    whole = commin.TLSFiles(**{kind: certificates / name for kind, name in PEM.items()})
    async with contextlib.AsyncExitStack() as stack:

        async def serve(kind: type, settings: ServiceSettings) -> str:
            server = Server(settings, kind(settings))
            await server.start()
            stack.push_async_callback(server.stop)
            return server.address

        receiver = await serve(ReceiverService, ReceiverSettings(bundle=bundle, tls=whole))
        channel = await serve(
            ChannelService, ChannelSettings(receiver=receiver, receiver_tls=whole, tls=whole)
        )
        front = await serve(
            TransmitterService,
            TransmitterSettings(bundle=bundle, channel=channel, channel_tls=whole, tls=whole),
        )
        async with commin.connect_async(front, tls=whole) as client:
            images = [picture(0)]
            results = [each async for each in client.send(images, snr_db=0, restorer="none")]
        assert [result.ok for result in results] == [True]
        assert (await commin.configure_channel_async(channel, tls=whole)).model == "awgn"
        for wrong in (
            commin.TLSFiles(),  # plaintext
            commin.TLSFiles(ca=whole.ca),  # shows no certificate
            commin.TLSFiles(certificates / "link.pem", whole.key, certificates / "stranger.pem"),
        ):
            link = commin.connect_async(front, tls=wrong, connect_seconds=0.7)
            with pytest.raises(commin.LinkError, match=re.escape(front)):
                await link.__aenter__()


PEM = {"cert": "link.pem", "key": "link.key", "ca": "ca.pem"}


def test_tls_without_client_certificates(start: Start, certificates: Path) -> None:
    channel = start(
        "channel",
        receiver="127.0.0.1:9",
        tls__cert=certificates / "link.pem",
        tls__key=certificates / "link.key",
    ).wait_until_serving()
    trusting = commin.TLSFiles(ca=certificates / "ca.pem")
    assert commin.configure_channel(channel.address, tls=trusting).model == "awgn"
