"""Which of several priors is better: error of predicted noise, and distance of samples to faces.

python -m benchmarks.prior VALIDATION PRIOR [PRIOR …] [--patch 2] [--samples 512] [--steps 25]

The error is over the whole validation set at times and noise that are always the same; the distance
is Fréchet's over AlexNet features (evaluation/metrics.py), which cannot be compared with FID, of
unconditional samples on a respaced schedule.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from evaluation.metrics import frechet_alexnet_distance
from receiver.prior import load_prior
from shared.weights import pick_device
from training.data import load_all
from training.prior import Denoising, sample, validation_loss

BATCH = 64


def main() -> None:
    """One line for each prior."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("validation", type=Path)
    parser.add_argument("priors", type=Path, nargs="+", help="folders in diffusers format")
    parser.add_argument("--patch", type=int, default=2, help="patch size of the priors")
    parser.add_argument("--size", type=int, default=64, help="height and width of images")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--steps", type=int, default=25)
    arguments = parser.parse_args()
    x = load_all(arguments.validation, arguments.size)
    for folder in arguments.priors:
        prior = load_prior(folder, arguments.patch, pick_device())
        error = validation_loss(Denoising(prior), x)
        samples = torch.cat(
            [
                sample(prior, BATCH, arguments.size, arguments.steps, seed)
                for seed in range(arguments.samples // BATCH)
            ]
        )
        distance = frechet_alexnet_distance(x, samples)
        print(
            f"{folder}: noise error {error:.5f} over {len(x)} images, Fréchet AlexNet distance "
            f"{distance:.2f} of {len(samples)} samples in {arguments.steps} steps",
            flush=True,
        )


if __name__ == "__main__":
    main()
