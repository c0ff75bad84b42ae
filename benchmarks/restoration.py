"""What fewer network evaluations cost: the presets against Algorithm 1 with T = 1000.

python -m benchmarks.restoration DATA [--limit 4] [--snrs=-5,-3,-1,1,3,5] [--plot FILE] [--write]

Every row sends the same images through the link in this process, at the same SNRs with the same
draws; seconds are wall time per image, encoding and decoding included. Algorithm 1 differentiates
each evaluation, commin-fast none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks.common import Finding, parser, report
from evaluation.evaluate import Row, evaluate, read_frames
from evaluation.local_link import Frame, LocalLink, Settings
from shared.bundle import Bundle
from shared.weights import pick_device

REFERENCE = ("commin", 1000)
# A preset, how much faster it is to be, and how much worse its LPIPS may be.
BARS = (("commin-fast", 20.0, 1.02), ("commin-turbo", 60.0, 1.2))
BELOW_DEEPJSCC = 0.6  # of LPIPS, for the fastest


@dataclass(frozen=True)
class Point:
    """Means over SNRs and images of one restorer with so many steps."""

    restorer: str
    steps: int
    seconds: float
    psnr_db: float
    lpips: float


def main() -> None:
    """Prints a table of all points and the ratios of the presets."""
    options = parser(__doc__)
    options.add_argument("data", type=Path)
    options.add_argument("--first", type=int, default=0, help="position of the first image")
    options.add_argument("--limit", type=int, default=4, help="images at each SNR")
    options.add_argument("--snrs", default="-5,-3,-1,1,3,5")
    options.add_argument("--algorithm1", default="1000,250,100,50", help="steps of commin")
    options.add_argument("--fast", default="100,50,25,10,4,2,1", help="steps of commin-fast")
    options.add_argument("--plot", type=Path, help="draw the table to this file")
    arguments = options.parse_args()
    link = LocalLink(Bundle.open(arguments.bundle), pick_device(), max_batch=16)
    frames = read_frames(arguments.data, link.image_size, arguments.first + arguments.limit)
    frames = frames[arguments.first :]
    snrs = [float(snr) for snr in arguments.snrs.split(",")]
    algorithm1 = [int(steps) for steps in arguments.algorithm1.split(",")]
    if arguments.quick:
        frames, snrs, algorithm1 = frames[:1], snrs[:1], [2]
    wanted = [("none", 0), *(("commin", steps) for steps in algorithm1)]
    wanted += [("commin-fast", int(steps)) for steps in arguments.fast.split(",")]
    wanted += [(name, sampling.steps) for name, sampling in link.models.fast.items()]
    points = []
    for restorer, steps in dict.fromkeys(wanted):
        points.append(measure(link, frames, snrs, restorer, steps))
        show(points[-1])
    if arguments.plot:
        draw(points, arguments.plot)
    report(__file__, findings(points, len(frames) * len(snrs)), arguments)


def measure(
    link: LocalLink, frames: Sequence[Frame], snrs: Sequence[float], restorer: str, steps: int
) -> Point:
    """One row of the table."""
    cells = [Settings(restorer, snr, steps=steps or None) for snr in snrs]
    rows: list[Row] = list(evaluate(link, frames, cells))
    return Point(
        restorer,
        steps,
        fmean(row.seconds_per_image for row in rows),
        fmean(row.psnr_db for row in rows),
        fmean(row.lpips for row in rows),
    )


def show(point: Point) -> None:
    """One line."""
    print(
        f"{point.restorer:13} {point.steps:4} steps {point.seconds:8.3f} s/image "
        f"{point.psnr_db:6.2f} dB LPIPS {point.lpips:.4f}",
        flush=True,
    )


def findings(points: Sequence[Point], images: int) -> list[Finding]:
    """The presets' speed and LPIPS over those of the slowest Algorithm 1 that was run."""
    slowest = max((p for p in points if p.restorer == "commin"), key=lambda point: point.steps)
    none = next(point for point in points if point.restorer == "none")
    name = f"Algorithm 1, {slowest.steps} steps"
    found = []
    for preset, speed, quality in BARS:
        default = [point for point in points if point.restorer == preset][-1:]
        for point in default:  # none where the bundle has no such preset
            detail = {"steps": point.steps, "s/image": point.seconds, "images": images}
            found.append(
                Finding(
                    f"seconds of {name} / of {preset}",
                    slowest.seconds / point.seconds,
                    "at least",
                    speed,
                    detail,
                )
            )
            found.append(
                Finding(
                    f"LPIPS of {preset} / of {name}",
                    point.lpips / slowest.lpips,
                    "at most",
                    quality,
                    {"LPIPS": point.lpips, name: slowest.lpips, "PSNR dB": point.psnr_db},
                )
            )
            found.append(
                Finding(
                    f"LPIPS of {preset} / of DeepJSCC",
                    point.lpips / none.lpips,
                    "at most",
                    BELOW_DEEPJSCC,
                    {"DeepJSCC": none.lpips},
                )
            )
    return found


def draw(points: Sequence[Point], file: Path) -> None:
    """LPIPS and PSNR against network evaluations and against seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for restorer in ("commin", "commin-fast"):
        line = sorted((p for p in points if p.restorer == restorer), key=lambda p: p.steps)
        for row, field in enumerate(("lpips", "psnr_db")):
            for column, size in enumerate(("steps", "seconds")):
                x = [getattr(point, size) for point in line]
                y = [getattr(point, field) for point in line]
                axes[row][column].semilogx(x, y, marker="o", label=restorer)
    none = next(point for point in points if point.restorer == "none")
    for row, field in enumerate(("lpips", "psnr_db")):
        for axis in axes[row]:
            axis.axhline(getattr(none, field), color="grey", linestyle=":", label="DeepJSCC")
            axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("LPIPS")
    axes[1][0].set_ylabel("PSNR / dB")
    axes[1][0].set_xlabel("network evaluations")
    axes[1][1].set_xlabel("seconds per image")
    axes[0][0].legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
