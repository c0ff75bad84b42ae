"""What images look like after the link in this process, and how long that takes."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from channel.awgn import awgn
from evaluation.evaluate import read_frames
from evaluation.images import to_images
from evaluation.local_link import Frame, LocalLink, Settings
from evaluation.metrics import lpips, psnr_db
from receiver.models import ReceiverModels
from shared.bundle import Bundle
from shared.draws import Purpose, generator, unit_complex_normal
from transmitter.encoder import load_encoder


def add_options(options: ArgumentParser, first: int, limit: int, snrs: str) -> None:
    """Options for what :func:`chosen` gives, with these defaults."""
    options.add_argument("data", type=Path)
    options.add_argument("--first", type=int, default=first, help="position of the first image")
    options.add_argument("--limit", type=int, default=limit, help="images at each SNR")
    options.add_argument("--snrs", default=snrs, help="dB, separated by commas")


def chosen(arguments: Namespace, image_size: int) -> tuple[list[Frame], list[float]]:
    """The images to send, and SNRs in dB to send them at."""
    frames = read_frames(arguments.data, image_size, arguments.first + arguments.limit)
    return frames[arguments.first :], [float(snr) for snr in arguments.snrs.split(",")]


@dataclass(frozen=True)
class Quality:
    """Means over images and SNRs.

    Attributes:
        seconds: Wall time per image, encoding and decoding included.
        psnr_db: PSNR, dB.
        lpips: LPIPS (alex).
    """

    seconds: float
    psnr_db: float
    lpips: float


def measure(
    link: LocalLink,
    frames: Sequence[Frame],
    snrs_db: Sequence[float],
    restorer: str,
    steps: int | None = None,
) -> Quality:
    """Sends all frames at each SNR with the same draws whatever the restorer."""
    each = [_measure(link, frames, Settings(restorer, snr_db, steps=steps)) for snr_db in snrs_db]
    return Quality(
        fmean(quality.seconds for quality in each),
        fmean(quality.psnr_db for quality in each),
        fmean(quality.lpips for quality in each),
    )


def _measure(link: LocalLink, frames: Sequence[Frame], settings: Settings) -> Quality:
    started = time.perf_counter()
    outcomes = link.send(frames, settings)
    seconds = (time.perf_counter() - started) / len(frames)
    originals = to_images([frame.pixels for frame in frames])
    psnr, distance = score(originals, to_images([outcome.restored for outcome in outcomes]))
    return Quality(seconds, float(psnr.mean()), float(distance.mean()))


def score(originals: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """PSNR in dB and LPIPS of each image, (N,) both; images are (N, 3, H, W) in [0, 1]."""
    return psnr_db(originals, images), lpips(originals, images)


@torch.no_grad()
def decode(
    bundle: Bundle, models: ReceiverModels, frames: Sequence[Frame], snr_db: float, seed: int = 0
) -> Tensor:
    """What the DeepJSCC decoder makes of the frames, (N, 3, H, W) in [0, 1]."""
    encoder = load_encoder(bundle, models.device)
    x = to_images([frame.pixels for frame in frames]).to(models.device)
    told = torch.full((len(x),), snr_db, device=models.device)
    noise = [
        torch.from_numpy(
            unit_complex_normal(generator(seed, frame.frame_id, Purpose.CHANNEL), models.symbols)
        )
        for frame in frames
    ]
    z = awgn(encoder(x, told), snr_db, torch.stack(noise).to(models.device), bundle.manifest.power)
    decoded: Tensor = models.decoder(z, told)
    return decoded
