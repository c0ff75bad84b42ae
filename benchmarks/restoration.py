"""What fewer network evaluations cost: the presets against Algorithm 1 with T = 1000.

python -m benchmarks.restoration DATA [--limit 4] [--wide 128] [--snrs=-5,-3,-1,1,3,5]
    [--plot FILE] [--write]

Every row sends the same images through the link in this process, at the same SNRs with the same
draws; seconds are wall time per image, encoding and decoding included. Algorithm 1 differentiates
each evaluation, commin-fast none. A thousand steps take a minute or more an image and SNR on a CPU
core, hence few images; what the presets gain on DeepJSCC, which differs much between images, is
taken over --wide of them.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import Finding, parser, report
from benchmarks.quality import Quality, add_options, chosen, measure
from evaluation.local_link import LocalLink
from shared.bundle import Bundle, FastSampling
from shared.weights import pick_device

# A preset, how much faster it is to be, and how much worse its LPIPS may be.
BARS = (("commin-fast", 20.0, 1.02), ("commin-turbo", 60.0, 1.2))
BELOW_DEEPJSCC = 0.6  # of LPIPS, for the fastest


@dataclass(frozen=True)
class Point:
    """One restorer with so many steps; the first of all is DeepJSCC alone."""

    restorer: str
    steps: int
    quality: Quality


def main() -> None:
    """Prints a table of all points and the ratios of the presets."""
    options = parser(__doc__)
    add_options(options, first=0, limit=4, snrs="-5,-3,-1,1,3,5")
    options.add_argument("--algorithm1", default="1000,250,100,50", help="steps of commin")
    options.add_argument("--fast", default="100,50,25,10,4,2,1", help="steps of commin-fast")
    options.add_argument("--wide", type=int, default=128, help="images for DeepJSCC and presets")
    options.add_argument("--plot", type=Path, help="draw the table to this file")
    arguments = options.parse_args()
    link = LocalLink(Bundle.open(arguments.bundle), pick_device(), max_batch=16)
    frames, snrs = chosen(arguments, link.image_size)
    algorithm1 = [int(steps) for steps in arguments.algorithm1.split(",")]
    if arguments.quick:
        frames, snrs, algorithm1, arguments.wide = frames[:1], snrs[:1], [2], 1
    wanted = [("none", 0), *(("commin", steps) for steps in algorithm1)]
    wanted += [("commin-fast", int(steps)) for steps in arguments.fast.split(",")]
    wanted += [(name, sampling.steps) for name, sampling in link.models.fast.items()]
    points = []
    for restorer, steps in dict.fromkeys(wanted):
        points.append(Point(restorer, steps, measure(link, frames, snrs, restorer, steps or None)))
        show(points[-1])
    many, _ = chosen(Namespace(**vars(arguments) | {"limit": arguments.wide}), link.image_size)
    print(f"the same with {len(many)} images")
    wide = {}
    presets = ((name, sampling.steps) for name, sampling in link.models.fast.items())
    for restorer, steps in (("none", 0), *presets):
        wide[restorer] = measure(link, many, snrs, restorer)
        show(Point(restorer, steps, wide[restorer]))
    if arguments.plot:
        draw(points, arguments.plot)
    found = findings(points, link.models.fast, len(frames) * len(snrs))
    found += against_deepjscc(wide, len(many) * len(snrs))
    report(__file__, found, arguments)


def show(point: Point) -> None:
    """One line."""
    print(
        f"{point.restorer:13} {point.steps:4} steps {point.quality.seconds:8.3f} s/image "
        f"{point.quality.psnr_db:6.2f} dB LPIPS {point.quality.lpips:.4f}",
        flush=True,
    )


def findings(
    points: Sequence[Point], presets: Mapping[str, FastSampling], images: int
) -> list[Finding]:
    """The presets' speed and LPIPS over those of the slowest Algorithm 1 that was run."""
    slowest = max((p for p in points if p.restorer == "commin"), key=lambda point: point.steps)
    reference = slowest.quality
    name = f"Algorithm 1, {slowest.steps} steps"
    found = []
    for preset, speed, quality in BARS:
        steps = presets[preset].steps
        ours = next(p.quality for p in points if (p.restorer, p.steps) == (preset, steps))
        about = {"steps": steps, "s/image": ours.seconds, "PSNR dB": ours.psnr_db}
        faster = Finding(
            f"seconds of {name} / of {preset}",
            reference.seconds / ours.seconds,
            "at least",
            speed,
            about | {"its s/image": reference.seconds, "images": images},
        )
        as_good = Finding(
            f"LPIPS of {preset} / of {name}",
            ours.lpips / reference.lpips,
            "at most",
            quality,
            {"LPIPS": ours.lpips, "its LPIPS": reference.lpips, "its PSNR dB": reference.psnr_db},
        )
        found += [faster, as_good]
    return found


def against_deepjscc(wide: Mapping[str, Quality], images: int) -> list[Finding]:
    """The presets' LPIPS over that of DeepJSCC, the restorer ``none``."""
    none = wide["none"]
    return [
        Finding(
            f"LPIPS of {preset} / of DeepJSCC",
            wide[preset].lpips / none.lpips,
            "at most",
            BELOW_DEEPJSCC,
            {
                "LPIPS": wide[preset].lpips,
                "PSNR dB": wide[preset].psnr_db,
                "its LPIPS": none.lpips,
                "its PSNR dB": none.psnr_db,
                "images": images,
            },
        )
        for preset, _, _ in BARS
    ]


def draw(points: Sequence[Point], file: Path) -> None:
    """LPIPS and PSNR against network evaluations and against seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for restorer in ("commin", "commin-fast"):
        line = sorted((p for p in points if p.restorer == restorer), key=lambda p: p.steps)
        for row, field in enumerate(("lpips", "psnr_db")):
            for column, size in enumerate(("steps", "seconds")):
                x = [p.steps if size == "steps" else p.quality.seconds for p in line]
                y = [getattr(p.quality, field) for p in line]
                axes[row][column].semilogx(x, y, marker="o", label=restorer)
    decoded = points[0].quality
    for row, field in enumerate(("lpips", "psnr_db")):
        for axis in axes[row]:
            axis.axhline(getattr(decoded, field), color="grey", linestyle=":", label="DeepJSCC")
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
