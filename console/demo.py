"""``commin demo``: a whole link on this machine, with faces sent through it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from console.errors import UserError, reported
from console.link import opened
from console.options import BUNDLE, BundleOption, StepsOption, decibel_list
from console.outputs import collect_images
from console.services import running_link

if TYPE_CHECKING:
    from PIL.Image import Image

    from commin import Link, Result
    from evaluation.images import Pixels

STAGES = ("encode", "propagate", "queue", "decode", "restore")


@dataclass(frozen=True)
class Scored:
    """A result, and how far it is from the original."""

    result: Result
    decoded_lpips: float
    restored_lpips: float


def demo(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Photographs or folders; unset: the samples")
    ] = None,
    snrs: Annotated[
        str, typer.Option(metavar="DB,DB…", help="SNRs in dB, separated by commas")
    ] = "-5,0,5",
    steps: StepsOption = None,
    restorer: Annotated[
        str | None, typer.Option(help="Unset: the bundle's default restorer")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Of all random draws")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the picture and the logs")] = Path("demo"),
    bundle: BundleOption = BUNDLE,
) -> None:
    """Start all three services here, send sample faces at several SNRs, draw what comes back."""
    levels = decibel_list(snrs)
    size = _image_size(bundle)
    paths = collect_images(images or [bundle / "samples"])
    originals = [_original(path, size) for path in paths]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the services are stopped
    with reported(OSError):
        print("starting receiver, channel and transmitter …", file=sys.stderr)
        with running_link(bundle, out / "logs") as local, opened(local.transmitter) as link:
            print(f"the link is at {local.transmitter}", file=sys.stderr)
            received = {
                snr: _send(link, paths, snr, restorer=restorer, steps=steps, seed=seed)
                for snr in levels
            }
        scored = {snr: _score(originals, results) for snr, results in received.items()}
        picture = out / "comparison.png"
        _draw(originals, scored).save(picture)
    _print_tables(scored)
    print(f"picture: {picture}")


def _image_size(bundle: Path) -> int:
    """What the bundle's images measure; finds a broken bundle before processes are started."""
    from shared.bundle import Bundle, BundleError

    with reported(BundleError):
        return int(Bundle.open(bundle).manifest.jscc.architecture.image_size)


def _original(path: Path, size: int) -> Pixels:
    """The image as the transmitter takes it, (size, size, 3)."""
    from shared.images import ImageError, decode_image

    try:
        return decode_image(path.read_bytes(), size)
    except ImageError as error:
        raise UserError(f"{path}: {error}") from error


def _send(
    link: Link,
    paths: Sequence[Path],
    snr: float,
    *,
    restorer: str | None,
    steps: int | None,
    seed: int,
) -> list[Result]:
    """Sends all images at one SNR; the results in their order."""
    from commin import Result
    from console.progress import FrameBars

    results: list[Result] = []
    with FrameBars([f"{path.stem} at {snr:g} dB" for path in paths]) as bars:
        outcomes = link.send(
            paths,
            snr_db=snr,
            restorer=restorer,
            steps=steps,
            seed=seed,
            preview_every=0,
            on_progress=lambda frame, step, steps, _: bars.update(frame, step, steps),
            ordered=True,
        )
        for outcome in outcomes:
            if not isinstance(outcome, Result):
                raise UserError(f"{outcome.source}: {outcome.code.name}: {outcome.message}")
            bars.finish(outcome.frame_id, outcome.ok)
            results.append(outcome)
    return results


def _score(originals: Sequence[Pixels], results: Sequence[Result]) -> list[Scored]:
    from evaluation.images import to_images
    from evaluation.metrics import lpips

    x = to_images(originals)
    decoded = lpips(x, to_images([result.decoded for result in results])).tolist()
    restored = lpips(x, to_images([result.restored for result in results])).tolist()
    return [Scored(*each) for each in zip(results, decoded, restored, strict=True)]


def _draw(originals: Sequence[Pixels], scored: Mapping[float, Sequence[Scored]]) -> Image:
    """Originals in the first column, then what came back at each SNR."""
    from console.picture import Cell, Group, compose

    groups = [Group("", ["original"])]
    groups += [Group(f"{snr:g} dB", ["decoded", "restored"]) for snr in scored]
    rows = []
    for index, original in enumerate(originals):
        row = [Cell(original, "PSNR in dB / LPIPS")]
        for each in (column[index] for column in scored.values()):
            result = each.result
            decoded = f"{result.decoded_psnr_db:.1f} / {each.decoded_lpips:.3f}"
            restored = f"{result.restored_psnr_db:.1f} / {each.restored_lpips:.3f}"
            row += [Cell(result.decoded, decoded), Cell(result.restored, restored)]
        rows.append(row)
    return compose(groups, rows)


def _print_tables(scored: Mapping[float, Sequence[Scored]]) -> None:
    """Means over the images at each SNR: quality, then where the time went."""
    from rich.console import Console
    from rich.table import Table

    quality = Table(title="Quality, mean over images")
    latency = Table(title="Latency in seconds, mean over images")
    for heading in (
        "SNR\ndB",
        "PSNR / dB\ndecoded",
        "PSNR / dB\nrestored",
        "LPIPS\ndecoded",
        "LPIPS\nrestored",
    ):
        quality.add_column(heading, justify="right")
    for heading in ("SNR / dB", *STAGES, "in all"):
        latency.add_column(heading, justify="right")
    for snr, column in scored.items():
        results = [each.result for each in column]
        quality.add_row(
            f"{snr:g}",
            f"{fmean(result.decoded_psnr_db for result in results):.2f}",
            f"{fmean(result.restored_psnr_db for result in results):.2f}",
            f"{fmean(each.decoded_lpips for each in column):.3f}",
            f"{fmean(each.restored_lpips for each in column):.3f}",
        )
        stages = [
            fmean(getattr(result.timings, f"{stage}_seconds") for result in results)
            for stage in (*STAGES, "end_to_end")
        ]
        latency.add_row(f"{snr:g}", *(f"{seconds:.3f}" for seconds in stages))
    console = Console()
    console.print(quality)
    console.print(latency)
