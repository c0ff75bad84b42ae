"""How InverseJSCC is calibrated: learning rates and the weight of the mean square error.

python -m benchmarks.inversion DATA --bundle WITH_A_GENERATOR [--first 800] [--limit 8]
    [--snrs=-5,1,5] [--mse 1,4,20] [--rates 0.1/0.05/0.03/0.02,0.1/0.05/0.01/0.005]

Every combination is tried on the same images, which are to be others than those that results are
reported on. Prints PSNR and LPIPS at each SNR when each stage ends. All images make one batch.
"""

from __future__ import annotations

import itertools
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import parser
from benchmarks.quality import decode, score
from evaluation.evaluate import read_frames
from evaluation.images import to_images
from receiver.models import load_receiver
from receiver.restorers.base import to_unit
from receiver.restorers.inverse_jscc import DEFAULTS, InverseJSCC, Optimisation, Weights
from shared.bundle import Bundle, BundleError
from shared.draws import DiffusionNoise
from shared.weights import pick_device


def main() -> None:
    """A table for each combination."""
    arguments = _arguments()
    bundle = Bundle.open(arguments.bundle)
    models = load_receiver(bundle, pick_device())
    if models.generator is None:
        raise BundleError(f"bundle {arguments.bundle} has no generator")
    size = bundle.manifest.jscc.architecture.image_size
    frames = read_frames(arguments.data, size, arguments.first + arguments.limit)
    frames = frames[arguments.first :]
    originals = to_images([frame.pixels for frame in frames])
    snrs_db = [float(each) for each in arguments.snrs.split(",")]
    decoded = {snr_db: decode(bundle, models, frames, snr_db).clamp(0, 1) for snr_db in snrs_db}
    print("none:", _quality(originals, list(decoded.values()), snrs_db), flush=True)
    for mse, rates in itertools.product(arguments.mse.split(","), arguments.rates.split(",")):
        weights = Weights(tuple(map(float, rates.split("/"))), float(mse))
        print(weights, flush=True)
        restorer = InverseJSCC(models, models.generator, weights)
        runs = [
            restorer.start(y, snr_db, restorer.default_steps, DiffusionNoise(0, frame.frame_id))
            for snr_db, images in decoded.items()
            for y, frame in zip(images, frames, strict=True)
        ]
        _run(restorer, runs, originals, snrs_db)


def _run(
    restorer: InverseJSCC, runs: Sequence[Optimisation], originals: Tensor, snrs_db: Sequence[float]
) -> None:
    started = time.process_time()
    while not runs[0].done:
        restorer.step(runs)
        if runs[0].position in runs[0].ends:
            images = to_unit(torch.stack([run.x0 for run in runs]).cpu())
            seconds = (time.process_time() - started) / len(runs)
            quality = _quality(originals, images.split(len(originals)), snrs_db)
            print(f"  {runs[0].position} steps, {seconds:.2f} s/image: {quality}", flush=True)


def _quality(originals: Tensor, images: Sequence[Tensor], snrs_db: Sequence[float]) -> str:
    texts = []
    for snr_db, restored in zip(snrs_db, images, strict=True):
        psnr, lpips = score(originals, restored.cpu())
        texts.append(f"{snr_db:+g} dB: LPIPS {lpips.mean():.4f}, {psnr.mean():.2f} dB")
    return "; ".join(texts)


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("data", type=Path)
    options.add_argument("--first", type=int, default=800, help="position of the first image")
    options.add_argument("--limit", type=int, default=8, help="images at each SNR")
    options.add_argument("--snrs", default="-5,1,5")
    options.add_argument("--mse", default=f"{DEFAULTS.mse:g}", help="weights of the MSE")
    options.add_argument("--rates", default="/".join(map(str, DEFAULTS.rates)), help="of stages")
    return options.parse_args()


if __name__ == "__main__":
    main()
