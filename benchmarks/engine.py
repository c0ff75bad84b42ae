"""Sixteen clients of one receiver against the best batched loop without any, and previews.

python -m benchmarks.engine [--quick]

The loop has all frames at hand, decodes and steps them in full batches and serves nobody: nothing
that serves can be faster. Previews are compared with a receiver that restores one frame at a time:
the first one, which is the decoded image, and the first that restoration has begun to change.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import Finding, in_turns, median_ratio, medians, parser, report
from benchmarks.processes import running
from commin import tensors
from commin.transport import SESSION_KEY, open_channel
from commin.v1 import frame_pb2, receiver_pb2, receiver_pb2_grpc
from receiver.engine import to_pixels
from receiver.models import ReceiverModels, load_receiver
from receiver.restorers import restorers_for
from receiver.restorers.base import Restorer, to_unit
from shared.bundle import Bundle
from shared.cpu import keep_freed_memory
from shared.draws import DiffusionNoise, Purpose, generator, unit_complex_normal
from shared.weights import pick_device

CLIENTS = 16
THROUGHPUT, PREVIEWS = 0.9, 4.0


@dataclass(frozen=True)
class Load:
    """What clients ask for: each sends ``rounds`` frames, one after the other's result."""

    bundle: Bundle
    restorer: str
    steps: int
    rounds: int

    @property
    def frames(self) -> int:
        """Frames in all."""
        return CLIENTS * self.rounds

    @property
    def preview_every(self) -> int:
        """Five previews on the way."""
        return max(1, self.steps // 5)

    def symbols(self, frame_id: int) -> NDArray[np.complex64]:
        """Noise is as much work as a picture."""
        k = self.bundle.manifest.jscc.architecture.symbols
        return unit_complex_normal(generator(0, frame_id, Purpose.CHANNEL), k)

    def request(self, frame_id: int) -> receiver_pb2.ReceiveRequest:
        """The frame as the channel would send it."""
        link = frame_pb2.LinkOptions(
            seed=0,
            told_snr_db=0,
            bundle=self.bundle.manifest.name,
            codec_digest=self.bundle.codec_digest,
        )
        restoration = frame_pb2.RestorationOptions(
            restorer=self.restorer, steps=self.steps, preview_every=self.preview_every
        )
        return receiver_pb2.ReceiveRequest(
            frame_id=frame_id,
            symbols=tensors.encode(self.symbols(frame_id)),
            options=frame_pb2.FrameOptions(
                channel=frame_pb2.ChannelOptions(snr_db=0), link=link, restoration=restoration
            ),
        )


def main() -> None:
    """Starts two receivers that differ in ``max_batch`` only."""
    options = parser(__doc__)
    options.add_argument("--restorer", default="commin-fast")
    options.add_argument("--steps", type=int, help="default: the restorer's")
    arguments = options.parse_args()
    models = load_receiver(Bundle.open(arguments.bundle), pick_device(), "auto")
    keep_freed_memory()  # as the receiver does: the loop is to be as fast as it can be
    restorer = restorers_for(models).get(arguments.restorer)
    if restorer is None:
        sys.exit(f"engine: this version has no restorer {arguments.restorer}")
    steps = arguments.steps or (5 if arguments.quick else restorer.default_steps)
    load = Load(
        Bundle.open(arguments.bundle), restorer.name, steps, rounds=1 if arguments.quick else 4
    )
    precision = "bf16" if models.dtype is torch.bfloat16 else "fp32"
    with ExitStack() as stack:
        batched, single = (
            stack.enter_context(
                running("receiver", bundle=arguments.bundle, max_batch=most, precision=precision)
            ).address
            for most in (CLIENTS, 1)
        )
        findings = [
            throughput(load, models, restorer, batched, repetitions=1 if arguments.quick else 3),
            *previews(load, batched, single),
        ]
    report(__file__, findings, arguments)


def throughput(
    load: Load, models: ReceiverModels, restorer: Restorer, address: str, repetitions: int
) -> Finding:
    """Images per second of the clients over those of the loop."""
    sizes = (CLIENTS,) if repetitions == 1 else (CLIENTS, CLIENTS // 2, CLIENTS // 4)
    loop(load, models, restorer, CLIENTS, load.frames)  # warms up
    best = max(sizes, key=lambda size: loop(load, models, restorer, size, CLIENTS))
    asyncio.run(serve_clients(load, address))
    pairs = in_turns(
        lambda: load.frames / timed_clients(load, address),
        lambda: loop(load, models, restorer, best, load.frames),
        repetitions,
    )
    clients, offline = medians(pairs)
    return Finding(
        f"{CLIENTS} clients / offline loop, images per second",
        median_ratio(pairs),
        "at least",
        THROUGHPUT,
        {
            "clients img/s": clients,
            "loop img/s": offline,
            "loop's batch": best,
            "restorer": f"{load.restorer}, {load.steps} steps",
        },
    )


def previews(load: Load, batched: str, single: str) -> list[Finding]:
    """Waits for previews: one frame at a time over all at once, p95."""
    alone, together = (
        np.percentile(asyncio.run(serve_clients(load, address)), 95, axis=0)
        for address in (single, batched)
    )
    first, restored = (
        {"one at a time s": float(alone[i]), "batched s": float(together[i])} for i in range(2)
    )
    what = "p95 wait for the first {}, one at a time / batched"
    return [
        Finding(what.format("preview"), alone[0] / together[0], "at least", PREVIEWS, first),
        Finding(what.format("restored preview"), alone[1] / together[1], details=restored),
    ]


def timed_clients(load: Load, address: str) -> float:
    """Seconds that the clients take."""
    started = time.perf_counter()
    asyncio.run(serve_clients(load, address))
    return time.perf_counter() - started


async def serve_clients(load: Load, address: str) -> list[tuple[float, float]]:
    """Each frame's waits, see :func:`waits`."""
    async with open_channel(address) as connection:
        stub = receiver_pb2_grpc.ReceiverServiceStub(connection)

        async def client(number: int) -> list[tuple[float, float]]:
            frames = range(number, load.frames, CLIENTS)
            return [await waits(stub, load.request(i), f"client-{number}") for i in frames]

        of_clients = await asyncio.gather(*map(client, range(CLIENTS)))
    return [each for frames in of_clients for each in frames]


async def waits(
    stub: receiver_pb2_grpc.ReceiverServiceAsyncStub,
    request: receiver_pb2.ReceiveRequest,
    session: str,
) -> tuple[float, float]:
    """Has a frame received; how long its first preview and the first after a step took, seconds."""
    started, seen = time.perf_counter(), dict[bool, float]()
    async for response in stub.Receive(request, metadata=((SESSION_KEY, session),)):
        event = response.event
        if event.HasField("error"):
            raise RuntimeError(event.error.message)
        if event.progress.HasField("preview"):
            seen.setdefault(event.progress.step > 0, time.perf_counter() - started)
    return min(seen.values()), seen[True]


def loop(load: Load, models: ReceiverModels, restorer: Restorer, batch: int, frames: int) -> float:
    """Images per second of restoring them in batches, without an engine."""
    started = time.perf_counter()
    for first in range(0, frames, batch):
        restore(load, models, restorer, range(first, min(first + batch, frames)))
    return frames / (time.perf_counter() - started)


def restore(
    load: Load, models: ReceiverModels, restorer: Restorer, frame_ids: Sequence[int]
) -> NDArray[np.uint8]:
    """One batch from symbols to pixels."""
    with torch.inference_mode():
        z = torch.from_numpy(np.stack([load.symbols(i) for i in frame_ids])).to(models.device)
        images = models.decoder(z, torch.zeros(len(z), device=models.device))
        ways = [
            restorer.start(image, 0.0, load.steps, DiffusionNoise(0, i))
            for i, image in zip(frame_ids, images, strict=True)
        ]
    for _ in range(load.steps):
        restorer.step(ways)
    return to_pixels(to_unit(torch.stack([each.x0 for each in ways])))


if __name__ == "__main__":
    main()
