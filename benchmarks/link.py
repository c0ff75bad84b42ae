"""Frames per second of DeepJSCC alone through three processes, against the networks alone.

python -m benchmarks.link [--quick]

The reference calls the same encoder, channel and decoder in this process on full batches, with all
the threads that torch takes. Transmitter and receiver do too unless they are told not to; on one
machine each then waits for cores that the other holds, so the bar is for a receiver that is given
half of them, as the README advises for such a machine.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import commin
from benchmarks.common import Finding, in_turns, median_ratio, medians, parser, report
from benchmarks.processes import running_link
from channel.noise import add_noise
from commin.results import Pixels, Result
from evaluation.images import to_images
from receiver.engine import to_pixels
from receiver.models import load_receiver
from shared.bundle import Bundle
from shared.weights import pick_device
from transmitter.encoder import load_encoder

LIMIT = 0.7
BATCH = 16
IN_FLIGHT = 64
STAGES = ("encode", "propagate", "queue", "decode", "restore")


def main() -> None:
    """Sends the same images both ways."""
    options = parser(__doc__)
    arguments = options.parse_args()
    frames = 64 if arguments.quick else 1024
    size = Bundle.open(arguments.bundle).manifest.jscc.architecture.image_size
    images = list(np.random.default_rng(0).integers(0, 256, (frames, size, size, 3), np.uint8))
    networks = Networks(arguments.bundle)
    networks.run(images[:BATCH])
    half = max(1, torch.get_num_threads() // 2)
    halved = compare(arguments, networks, images, {"threads": half})
    shared = compare(arguments, networks, images, {})
    what = "DeepJSCC frames per second, three processes / networks in one"
    findings = [
        Finding(
            what, halved.pop("ratio"), "at least", LIMIT, {"receiver's threads": half} | halved
        ),
        Finding(f"{what}, all threads everywhere", shared.pop("ratio"), details=shared),
    ]
    report(__file__, findings, arguments)


def compare(
    arguments: Namespace, networks: Networks, images: list[Pixels], receiver: dict[str, int]
) -> dict[str, Any]:
    """The ratio and its details, with settings of the ``receiver``."""
    results: list[Result] = []
    with running_link(arguments.bundle, max_batch=BATCH, **receiver) as address:
        asyncio.run(send(address, images[:IN_FLIGHT]))

        def link() -> float:
            started = time.perf_counter()
            results[:] = asyncio.run(send(address, images))
            return len(images) / (time.perf_counter() - started)

        pairs = in_turns(link, lambda: networks.run(images), 1 if arguments.quick else 5)
    through, alone = medians(pairs)
    speeds = {"link frames/s": through, "networks frames/s": alone, "batch": BATCH}
    return {"ratio": median_ratio(pairs)} | speeds | shares(results)


class Networks:
    """Encoder, channel and decoder in this process."""

    def __init__(self, folder: Path) -> None:
        bundle = Bundle.open(folder)
        self.device = pick_device()
        self.encoder = load_encoder(bundle, self.device)
        self.decoder = load_receiver(bundle, self.device).decoder

    @torch.inference_mode()
    def run(self, images: list[Pixels]) -> float:
        """Frames per second."""
        started = time.perf_counter()
        for first in range(0, len(images), BATCH):
            x = to_images(images[first : first + BATCH]).to(self.device)
            x = x.to(memory_format=torch.channels_last)
            snr_db = torch.zeros(len(x), device=self.device)
            z = self.encoder(x, snr_db).cpu().numpy()
            noisy = [add_noise(row, 0.0, 0, first + i).symbols for i, row in enumerate(z)]
            to_pixels(self.decoder(torch.from_numpy(np.stack(noisy)).to(self.device), snr_db))
        return len(images) / (time.perf_counter() - started)


async def send(address: str, images: list[Pixels]) -> list[Result]:
    """Sends all, as many at a time as keep full batches on their way."""
    results = []
    async with commin.connect_async(address, max_in_flight=IN_FLIGHT) as link:
        async for outcome in link.send(images, snr_db=0, restorer="none"):
            if not isinstance(outcome, Result):
                raise RuntimeError(outcome.message)
            results.append(outcome)
    return results


def shares(results: list[Result]) -> dict[str, str]:
    """Each stage's share of the mean latency at the transmitter; waiting is in encode and queue."""
    whole = statistics.mean(each.timings.end_to_end_seconds for each in results)
    parts = {
        stage: statistics.mean(getattr(each.timings, f"{stage}_seconds") for each in results)
        for stage in STAGES
    }
    parts["transport"] = whole - sum(parts.values())
    shown = {f"{stage} share": f"{seconds / whole:.0%}" for stage, seconds in parts.items()}
    return {"latency": f"{whole * 1e3:.0f} ms"} | shown


if __name__ == "__main__":
    main()
