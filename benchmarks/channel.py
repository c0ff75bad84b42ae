"""Symbols per second through the channel service, against numpy drawing as many samples.

python -m benchmarks.channel [--quick]

Large frames go from a client here to the channel in a process of its own and on to a receiver here
that answers at once, so each symbol crosses two sockets. Both make and serve the calls as the
services do (``commin.hops``). The service draws for as many frames at a time as it has threads for
that. The reference draws the same Gaussian samples with numpy on one core and does nothing else.
Where ``pykaira`` is installed, its AWGN channel adds noise to the same frames in this process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import Finding, in_turns, median_ratio, medians, parser, report
from benchmarks.processes import running
from channel.settings import ChannelSettings
from commin import tensors
from commin.hops import PropagateRequest, ReceiveRequest, propagate_stub, serve_receive
from commin.transport import MAX_MESSAGE_BYTES, open_channel
from commin.v1 import channel_pb2, frame_pb2, receiver_pb2, receiver_pb2_grpc
from commin.wire import Parcel
from shared.draws import Purpose, generator, unit_complex_normal

LIMIT = 0.5
SYMBOLS = 2**20
IN_FLIGHT = 4
SNR_DB = 0.0


def main() -> None:
    """Measures in turns."""
    arguments = parser(__doc__).parse_args()
    frames = 4 if arguments.quick else 32
    repetitions = 1 if arguments.quick else 5
    findings = asyncio.run(measure(frames, repetitions))
    report(__file__, findings, arguments)


async def measure(frames: int, repetitions: int) -> list[Finding]:
    """Runs receiver, channel and client."""
    loop = asyncio.get_running_loop()
    async with answering_receiver() as receiver:
        with running("channel", receiver=receiver, default_snr_db=SNR_DB) as channel:
            z = np.sqrt(0.5).astype(np.float32) * np.ones(2 * SYMBOLS, np.float32)
            frame = z.view(np.complex64)
            await send(channel.address, frame, IN_FLIGHT)

            def service() -> float:
                work = send(channel.address, frame, frames)
                return asyncio.run_coroutine_threadsafe(work, loop).result()

            pairs = await asyncio.to_thread(in_turns, service, lambda: draw(frames), repetitions)
            through, drawn = medians(pairs)
            details = {
                "service Msymbols/s": through / 1e6,
                "symbols a frame": SYMBOLS,
                "service's drawing threads": ChannelSettings.model_fields["noise_threads"].default,
            }
            findings = [
                Finding(
                    "channel service / numpy drawing on one core, symbols per second",
                    median_ratio(pairs),
                    "at least",
                    LIMIT,
                    details | {"numpy Msymbols/s": drawn / 1e6},
                )
            ]
            kaira = kaira_channel()
            if kaira is None:
                print("pykaira is not installed: no comparison with it")
                return findings
            pairs = await asyncio.to_thread(
                in_turns, service, lambda: run_kaira(kaira, frame, frames), repetitions
            )
            _, theirs = medians(pairs)
            findings.append(
                Finding(
                    "channel service / kaira's AWGNChannel in process, symbols per second",
                    median_ratio(pairs),
                    details={"kaira Msymbols/s": theirs / 1e6},
                )
            )
            return findings


def draw(frames: int) -> float:
    """Symbols per second of numpy alone."""
    started = time.perf_counter()
    for frame_id in range(frames):
        unit_complex_normal(generator(0, frame_id, Purpose.CHANNEL), SYMBOLS)
    return frames * SYMBOLS / (time.perf_counter() - started)


async def send(address: str, frame: NDArray[np.complex64], frames: int) -> float:
    """Symbols per second through the service."""
    async with open_channel(address, max_message_bytes=MAX_MESSAGE_BYTES) as connection:
        call = propagate_stub(connection)()
        await call.wait_for_connection()
        started = time.perf_counter()
        places = asyncio.Semaphore(IN_FLIGHT)

        async def write() -> None:
            for frame_id in range(frames):
                await places.acquire()
                await call.write(request(frame_id, frame))
            await call.done_writing()

        writing = asyncio.create_task(write())
        async for response in call:
            if response.event.HasField("error"):
                raise RuntimeError(response.event.error.message)
            places.release()
        await writing
    return frames * SYMBOLS / (time.perf_counter() - started)


def request(frame_id: int, frame: NDArray[np.complex64]) -> PropagateRequest:
    """A frame as the transmitter would send it."""
    link = frame_pb2.LinkOptions(
        seed=0, told_snr_db=SNR_DB, timeout_seconds=60, bundle="none", codec_digest="none"
    )
    channel = frame_pb2.ChannelOptions(snr_db=SNR_DB)
    options = frame_pb2.FrameOptions(channel=channel, link=link)
    message = channel_pb2.PropagateRequest(frame_id=frame_id, options=options, power=1.0)
    return Parcel(message, tensors.describe_into(message.symbols, frame))


class Answering(receiver_pb2_grpc.ReceiverServiceServicer):
    """A receiver that has an empty result at once."""

    async def Receive(self, request: ReceiveRequest, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        """Answers one frame."""
        event = frame_pb2.FrameEvent(frame_id=request.frame_id, result=frame_pb2.Result())
        await context.write(receiver_pb2.ReceiveResponse(event=event))


@asynccontextmanager
async def answering_receiver() -> AsyncIterator[str]:
    """Its address, while it serves."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
    answering = Answering()  # type: ignore[abstract]  # nobody asks what it is
    receiver_pb2_grpc.add_ReceiverServiceServicer_to_server(answering, server)
    serve_receive(server, answering.Receive)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def kaira_channel() -> Any:
    """kaira's complex AWGN channel at the same SNR, or None without ``pykaira``."""
    try:
        from kaira.channels import AWGNChannel
    except ImportError:
        return None
    return AWGNChannel(avg_noise_power=10 ** (-SNR_DB / 10))


def run_kaira(channel: Any, frame: NDArray[np.complex64], frames: int) -> float:
    """Symbols per second of its channel on one core."""
    z = torch.from_numpy(frame)[None]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    started = time.perf_counter()
    for _ in range(frames):
        channel(z)
    elapsed = time.perf_counter() - started
    torch.set_num_threads(threads)
    return frames * SYMBOLS / elapsed


if __name__ == "__main__":
    main()
