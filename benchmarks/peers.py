"""Restorers of this repository against DPS as a published library (azula) has it.

python -m benchmarks.peers [DATA] [--bundle models/faces64] [--limit 4] [--snrs=-5,1] [--quick]
    [--write]

DATA is a parquet or a folder of images, the sample faces by default. Both sides get the same prior
and the same decoded images; DPS measures them through the plain coarse split. Channel noise and
start x_T are the same, too; azula draws its noise within steps itself, from a fixed seed. Images
are restored one at a time, since azula takes one residual norm over a whole batch.

The peer runs at its own default (64 steps) and at those of the paper it implements (1000), with
the step size that both have as default, zeta = 1. The latter cost 85 s an image and SNR on one
CPU core: --limit 2 takes seven minutes, the default thirteen. Rows are printed as they are
measured, so what was measured before a stop is not lost. Needs `pip install -e '.[bench]'`.
"""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from azula.denoise import Denoiser, DiracPosterior
from azula.guidance import DPSSampler
from azula.noise import Schedule
from torch import Tensor

from benchmarks.common import BUNDLE, Finding, parser, report
from benchmarks.quality import decode, score
from evaluation.evaluate import read_frames
from evaluation.images import to_images
from evaluation.local_link import Frame
from receiver.diffusion import TRAINING_STEPS, alpha_bar
from receiver.models import ReceiverModels, load_receiver
from receiver.prior import Prior
from receiver.restorers import restorers_for
from receiver.restorers.base import Restorer, draw_like, from_unit, to_unit
from shared.bundle import Bundle
from shared.draws import DiffusionNoise
from shared.weights import pick_device

SAMPLES = BUNDLE / "samples"
SEED = 0

Restore = Callable[[Tensor, float, int], Tensor]
"""(decoded image (3, H, W) in [0, 1], SNR in dB, frame id) to the restored one."""


@dataclass(frozen=True)
class Method:
    """One restorer at one number of steps."""

    name: str
    steps: int
    peer: bool
    restore: Restore


@dataclass(frozen=True)
class Point:
    """Means over images (and SNRs) of one method."""

    method: str
    steps: int
    peer: bool
    seconds: float
    psnr_db: float
    lpips: float


class DDPMSchedule(Schedule):  # type: ignore[misc]  # azula ships no types
    """The prior's own schedule for azula, whose times run from 0 to 1."""

    def __init__(self, device: torch.device) -> None:
        self._alpha_bar = alpha_bar().to(device)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Scales of signal and noise."""
        kept = self._alpha_bar[training_time(t)]
        return kept.sqrt(), (1 - kept).sqrt()


class PriorDenoiser(Denoiser):  # type: ignore[misc]
    """The prior as azula's denoiser; the mean is clamped, as in azula's own DDPM models."""

    def __init__(self, prior: Prior, schedule: DDPMSchedule) -> None:
        super().__init__()
        self.prior = prior
        self.schedule = schedule

    def forward(self, x_t: Tensor, t: Tensor) -> DiracPosterior:
        """Eq. (10)."""
        alpha, sigma = self.schedule(t)
        epsilon = self.prior(x_t, training_time(t).expand(len(x_t)))
        return DiracPosterior(((x_t - sigma * epsilon) / alpha).clamp(-1, 1))


def training_time(t: Tensor) -> Tensor:
    """Time 0 … 1000 of azula's 0 … 1."""
    return (t * TRAINING_STEPS).round().long()


def ours(restorer: Restorer, steps: int) -> Method:
    """A restorer of a bundle as a method."""

    def restore(y: Tensor, snr_db: float, frame_id: int) -> Tensor:
        trajectory = restorer.start(y, snr_db, steps, DiffusionNoise(SEED, frame_id))
        while not trajectory.done:
            restorer.step([trajectory])
        return to_unit(trajectory.x0)

    return Method(restorer.name, steps, False, restore)


def azula_dps(models: ReceiverModels, steps: int, zeta: float) -> Method:
    """azula's DPS with the bundle's prior as a method."""
    assert models.prior is not None
    denoiser = PriorDenoiser(models.prior, DDPMSchedule(models.device)).eval()

    def restore(y: Tensor, snr_db: float, frame_id: int) -> Tensor:
        inn = models.inn_for(snr_db)
        measured = inn.coarse(from_unit(y)[None])
        sampler = DPSSampler(denoiser, measured, inn.coarse, zeta=zeta, steps=steps, silent=True)
        torch.manual_seed(frame_id)
        return to_unit(sampler(draw_like(y, DiffusionNoise(SEED, frame_id))[None])[0])

    return Method("azula DPS", steps, True, restore)


def measure(
    method: Method, originals: Tensor, decoded: Tensor, frames: Sequence[Frame], snr_db: float
) -> Point:
    """Restores every image, one at a time."""
    started = time.perf_counter()
    restored = [
        method.restore(y, snr_db, frame.frame_id).cpu()
        for y, frame in zip(decoded, frames, strict=True)
    ]
    seconds = (time.perf_counter() - started) / len(frames)
    psnr, lpips = score(originals, torch.stack(restored))
    return Point(
        method.name, method.steps, method.peer, seconds, float(psnr.mean()), float(lpips.mean())
    )


def mean_over(points: Sequence[Point]) -> Point:
    """One method's means over SNRs."""

    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(points)

    return Point(
        points[0].method,
        points[0].steps,
        points[0].peer,
        mean(point.seconds for point in points),
        mean(point.psnr_db for point in points),
        mean(point.lpips for point in points),
    )


def findings(peer: Point, own: Sequence[Point]) -> list[Finding]:
    """Our best LPIPS in at most the peer's time, and our least time for at most its LPIPS."""
    whose = f"{peer.method}, {peer.steps} steps"
    its = {"its s/image": peer.seconds, "its LPIPS": peer.lpips, "its PSNR dB": peer.psnr_db}
    best = min(
        (point for point in own if point.seconds <= peer.seconds),
        key=lambda point: point.lpips,
        default=None,
    )
    fastest = min(
        (point for point in own if point.lpips <= peer.lpips),
        key=lambda point: point.seconds,
        default=None,
    )
    return [
        Finding(
            f"our LPIPS in at most the time of {whose} / its LPIPS",
            best.lpips / peer.lpips if best else math.inf,
            "at most",
            1.0,
            described(best) | its,
        ),
        Finding(
            f"seconds of {whose} / our seconds at most at its LPIPS",
            peer.seconds / fastest.seconds if fastest else 0.0,
            "at least",
            1.0,
            described(fastest) | its,
        ),
    ]


def described(point: Point | None) -> dict[str, str | float]:
    """One of ours, if there was one."""
    if point is None:
        return {"ours": "none"}
    return {
        "ours": f"{point.method}, {point.steps} steps",
        "s/image": point.seconds,
        "LPIPS": point.lpips,
        "PSNR dB": point.psnr_db,
    }


def show(title: str, points: Iterable[Point]) -> None:
    """Prints one table, each row when it is there."""
    print(f"\n{title}\n{'method':<14}{'steps':>6}{'s/image':>10}{'PSNR/dB':>9}{'LPIPS':>8}")
    for point in points:
        print(
            f"{point.method:<14}{point.steps:>6}{point.seconds:>10.3f}{point.psnr_db:>9.2f}"
            f"{point.lpips:>8.4f}",
            flush=True,
        )


def kept(measured: Iterable[Point], collected: Sequence[list[Point]]) -> Iterator[Point]:
    """Passes each method's point on, and adds it to the method's others."""
    for point, points in zip(measured, collected, strict=True):
        points.append(point)
        yield point


def methods_from(arguments: Namespace, models: ReceiverModels) -> list[Method]:
    """Our operating points as far as the bundle has them, then the peer's."""
    available = restorers_for(models)
    chosen = []
    for point in arguments.ours.split(","):
        name, steps = point.split(":")
        if name in available:
            chosen.append(ours(available[name], int(steps)))
        else:
            print(f"left out {point}: the bundle's restorers are {', '.join(available)}")
    peer_steps = [int(steps) for steps in arguments.peer_steps.split(",")]
    return chosen + [azula_dps(models, steps, arguments.zeta) for steps in peer_steps]


def arguments_from(command_line: Sequence[str] | None = None) -> Namespace:
    """The command line; ``--quick`` shows that everything runs, and no more."""
    options = parser(__doc__)
    options.add_argument("data", type=Path, nargs="?", default=SAMPLES)
    options.add_argument("--limit", type=int, default=4, help="images")
    options.add_argument("--snrs", default="-5,1", help="dB, separated by commas")
    options.add_argument(
        "--ours",
        default="commin-turbo:1,commin-fast:2,commin-fast:10,commin-fast:25,commin:25",
        help="NAME:STEPS, separated by commas",
    )
    options.add_argument("--peer-steps", default="64,1000", help="separated by commas")
    options.add_argument("--zeta", type=float, default=1.0, help="the peer's step size")
    options.add_argument("--device", default="auto")
    arguments = options.parse_args(command_line)
    if arguments.quick:  # 1 image, 1 SNR, 10 steps of the peer
        arguments.limit, arguments.snrs, arguments.peer_steps = 1, "0", "10"
        arguments.ours = "commin-fast:10,commin:10"
    return arguments


def main() -> None:
    """Prints a table for each SNR, one for their mean, and the ratios."""
    arguments = arguments_from()
    bundle = Bundle.open(arguments.bundle)
    models = load_receiver(bundle, pick_device(arguments.device))
    frames = read_frames(
        arguments.data, bundle.manifest.jscc.architecture.image_size, arguments.limit
    )
    originals = to_images([frame.pixels for frame in frames])
    methods = methods_from(arguments, models)
    about = {
        "images": len(frames),
        "SNRs dB": arguments.snrs,
        "threads": torch.get_num_threads(),
        "azula": version("azula"),
    }
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    collected: list[list[Point]] = [[] for _ in methods]
    for snr_db in map(float, arguments.snrs.split(",")):
        decoded = decode(bundle, models, frames, snr_db, SEED)
        psnr, lpips = score(originals, decoded.cpu())
        min(methods, key=lambda method: method.steps).restore(decoded[0], snr_db, 0)  # warms up
        measured = (measure(each, originals, decoded, frames, snr_db) for each in methods)
        title = f"{snr_db:+g} dB; decoded: PSNR {psnr.mean():.2f} dB, LPIPS {lpips.mean():.4f}"
        show(title, kept(measured, collected))
    means = [mean_over(points) for points in collected]
    show("mean over SNRs", means)
    own = [point for point in means if not point.peer]
    found = [each for peer in means if peer.peer for each in findings(peer, own)]
    for each in found:
        each.details.update(about)
    report(__file__, found, arguments)


if __name__ == "__main__":
    main()
