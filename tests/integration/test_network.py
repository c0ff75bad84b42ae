"""Networks that go silent, and clients that are slow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

import commin
from channel.service import ChannelService
from channel.settings import ChannelSettings
from commin.v1 import frame_pb2, transmitter_pb2, transmitter_pb2_grpc
from receiver.service import ReceiverService
from receiver.settings import ReceiverSettings
from shared.server import Server
from tests.integration.conftest import picture, png
from transmitter.service import TransmitterService
from transmitter.settings import TransmitterSettings


class Wire:
    """A TCP hop that can fall silent: no data, no FIN, as when a cable is pulled."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = host, int(port)
        self._up = asyncio.Event()
        self._up.set()
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    def cut(self) -> None:
        self._up.clear()

    def mend(self) -> None:
        self._up.set()

    async def close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._up.wait()
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers += [writer, far_writer]
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                await self._up.wait()
                writer.write(data)
                await writer.drain()
            writer.close()


@dataclass
class Link:
    front: str
    to_channel: Wire
    to_receiver: Wire


@pytest.fixture
async def wired(bundle: Path) -> AsyncIterator[Link]:
    """A link in this process whose hops can be cut."""
    async with contextlib.AsyncExitStack() as stack:

        async def serve(service: object, settings: object) -> str:
            server = Server(settings, service)
            await server.start()
            stack.push_async_callback(server.stop)
            return server.address

        async def wire(target: str) -> tuple[Wire, str]:
            wire = Wire(target)
            stack.push_async_callback(wire.close)
            return wire, await wire.open()

        quick = {"keepalive_seconds": 1, "grace_seconds": 0}
        of_receiver = ReceiverSettings(bundle=bundle, **quick)
        receiver = await serve(ReceiverService(of_receiver), of_receiver)
        to_receiver, address = await wire(receiver)
        of_channel = ChannelSettings(receiver=address, **quick)
        channel = await serve(ChannelService(of_channel), of_channel)
        to_channel, address = await wire(channel)
        of_front = TransmitterSettings(bundle=bundle, channel=address, **quick)
        front = await serve(TransmitterService(of_front), of_front)
        yield Link(front, to_channel, to_receiver)


@pytest.mark.slow
@pytest.mark.parametrize("hop", ["to_channel", "to_receiver"])
async def test_a_silent_network_loses_nothing(wired: Link, hop: str) -> None:
    wire: Wire = getattr(wired, hop)
    results = []
    async with commin.connect_async(wired.front, max_in_flight=4) as client:
        images = map(picture, range(12))
        options = {"snr_db": 0, "restorer": "commin", "steps": 30}
        async for result in client.send(images, **options):
            results.append(result)
            if len(results) == 2:
                wire.cut()
                asyncio.get_running_loop().call_later(4, wire.mend)
    assert [result for result in results if not result.ok] == []
    assert sorted(result.frame_id for result in results) == list(range(12))


async def test_a_client_that_does_not_read_slows_itself_and_loses_nothing(wired: Link) -> None:
    sent = 0

    async def requests() -> AsyncIterator[transmitter_pb2.TransmitRequest]:
        nonlocal sent
        options = frame_pb2.FrameOptions(
            channel=frame_pb2.ChannelOptions(snr_db=0),
            restoration=frame_pb2.RestorationOptions(restorer="none"),
        )
        ballast = png(0) + b"\0" * 50_000  # fills the sockets' buffers
        for frame_id in range(400):
            yield transmitter_pb2.TransmitRequest(
                frame_id=frame_id, encoded=ballast, options=options
            )
            sent += 1

    options = [("grpc.http2.lookahead_bytes", 2**16), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(wired.front, options) as channel:
        call = transmitter_pb2_grpc.TransmitterServiceStub(channel).Transmit(requests())
        reading = aiter(call)
        first = await anext(reading)
        await asyncio.sleep(1)
        before = sent
        await asyncio.sleep(0.5)
        assert sent == before < 300, "the sender was not held back"
        events = [first.event] + [response.event async for response in reading]
    results = [event.frame_id for event in events if event.HasField("result")]
    assert sorted(results) == list(range(400))


async def test_previews_come_while_a_frame_is_restored(wired: Link) -> None:
    seen: list[tuple[int, bool]] = []
    async with commin.connect_async(wired.front) as client:
        outcomes = client.send(
            [picture(0)],
            snr_db=0,
            restorer="commin",
            steps=40,
            preview_every=10,
            on_progress=lambda _, step, __, preview: seen.append((step, preview is not None)),
        )
        async for result in outcomes:
            assert result.ok
    steps = [step for step, _ in seen]
    assert steps == sorted(steps)
    assert sum(preview for _, preview in seen) >= 2
    assert np.all(np.diff(steps) > 0)
