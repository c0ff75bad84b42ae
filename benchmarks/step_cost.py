"""What guidance adds to a step: a step of commin-fast against one run of the prior alone.

python -m benchmarks.step_cost [--quick]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.common import Finding, in_turns, median_ratio, medians, parser, report
from receiver.models import ReceiverModels, load_receiver
from receiver.restorers import restorers_for
from receiver.restorers.base import Restorer, Trajectory
from shared.bundle import Bundle
from shared.draws import DiffusionNoise
from shared.weights import pick_device

BATCHES = (16, 4, 1)
LIMIT = 1.25


def main() -> None:
    """Measures at several batch sizes; the bar is for the largest."""
    options = parser(__doc__)
    options.add_argument("--restorer", default="commin-fast")
    arguments = options.parse_args()
    device = pick_device()
    models = load_receiver(Bundle.open(arguments.bundle), device, "auto")
    restorer = restorers_for(models).get(arguments.restorer)
    if restorer is None:
        sys.exit(f"step_cost: this version has no restorer {arguments.restorer}")
    repetitions = 2 if arguments.quick else 15
    findings = []
    for frames in BATCHES[-1:] if arguments.quick else BATCHES:
        findings.append(measure(models, restorer, frames, repetitions))
    report(__file__, findings, arguments)


def measure(models: ReceiverModels, restorer: Restorer, frames: int, repetitions: int) -> Finding:
    """Guided step over unguided evaluation, with ``frames`` images in the batch."""
    assert models.prior
    batch = start(restorer, frames, models)
    x = torch.stack([each.x for each in batch])
    t = torch.tensor([each.time for each in batch], device=x.device)
    prior = models.prior

    def guided() -> float:
        for each in batch:
            each.position = 0
        return timed(lambda: restorer.step(batch), batch)

    @torch.inference_mode()
    def unguided() -> float:
        return timed(lambda: prior(x, t), batch)

    in_turns(guided, unguided, 2)
    pairs = in_turns(guided, unguided, repetitions)
    step, floor = medians(pairs)
    return Finding(
        f"{restorer.name} step / prior alone, batch of {frames}",
        median_ratio(pairs),
        "at most" if frames == max(BATCHES) else None,
        LIMIT,
        {"step ms": step * 1e3, "prior ms": floor * 1e3, "dtype": str(models.dtype)},
    )


def timed(work: Callable[[], object], batch: Sequence[Trajectory]) -> float:
    """Seconds until the device is done."""
    started = time.perf_counter()
    work()
    if batch[0].x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


@torch.inference_mode()
def start(restorer: Restorer, frames: int, models: ReceiverModels) -> list[Trajectory]:
    """Images at the start of their way."""
    z = torch.randn(frames, models.symbols, dtype=torch.complex64).to(models.device)
    snr_db = torch.zeros(frames, device=models.device)
    images = models.decoder(z, snr_db)
    steps = restorer.default_steps
    return [
        restorer.start(image, 0.0, steps, DiffusionNoise(0, i)) for i, image in enumerate(images)
    ]


if __name__ == "__main__":
    main()
