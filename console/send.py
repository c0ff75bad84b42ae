"""``commin send``: photographs over a running link."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.errors import UserError, reported
from console.link import opened
from console.options import LinkOption, SeedOption, StepsOption, TLSCa, TLSCert, TLSKey, decibels
from console.outputs import Outputs, collect_images

if TYPE_CHECKING:
    from commin import FrameFailure, Link, Result


def send(
    images: Annotated[list[Path], typer.Argument(help="Photographs, or folders of them")],
    link: LinkOption = "127.0.0.1:50051",
    snr: Annotated[
        float | None,
        typer.Option(parser=decibels, metavar="DB", help="Unset: the channel's present default"),
    ] = None,
    told_snr: Annotated[
        float | None,
        typer.Option(
            parser=decibels, metavar="DB", help="What both ends are told; unset: the true SNR"
        ),
    ] = None,
    seed: SeedOption = None,
    restorer: Annotated[
        str | None, typer.Option(help="See commin describe; unset: the receiver's default")
    ] = None,
    steps: StepsOption = None,
    preview_every: Annotated[
        int, typer.Option(min=0, max=1000, help="Save a preview every so many steps; 0: none")
    ] = 0,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds that each image may take")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the received images")] = Path("received"),
    tls_ca: TLSCa = None,
    tls_cert: TLSCert = None,
    tls_key: TLSKey = None,
) -> None:
    """Send photographs over a running link and save what comes back."""
    paths = collect_images(images)
    outputs = Outputs(out, paths)
    with opened(link, tls_ca, tls_cert, tls_key) as connection, reported(OSError):
        options = {
            "snr_db": snr,
            "told_snr_db": told_snr,
            "seed": seed,
            "restorer": restorer,
            "steps": steps,
            "preview_every": preview_every,
            "timeout": timeout,
        }
        results, failures = _send(connection, paths, outputs, options)
    if results:
        _print_table(results, outputs)
    for failure in failures:
        field = f" {failure.field}:" if failure.field else ""
        message = f"commin: {failure.source}: {failure.code.name}:{field} {failure.message}"
        print(message, file=sys.stderr)
    if failures:
        raise UserError(f"{len(failures)} of {len(paths)} images did not come through")


def _send(
    link: Link, paths: Sequence[Path], outputs: Outputs, options: Mapping[str, object]
) -> tuple[list[Result], list[FrameFailure]]:
    """Sends all images under a progress bar each, saving each as it comes."""
    from commin import Result
    from console.progress import FrameBars

    results, failures = [], []
    with FrameBars([path.name for path in paths]) as bars:

        def on_progress(frame: int, step: int, steps: int, preview: object) -> None:
            bars.update(frame, step, steps)
            if preview is not None:
                outputs.save_preview(frame, step, preview)

        for outcome in link.send(paths, on_progress=on_progress, **options):  # type: ignore[arg-type]
            bars.finish(outcome.frame_id, outcome.ok)
            if isinstance(outcome, Result):
                outputs.save(outcome)
                results.append(outcome)
            else:
                failures.append(outcome)
    results.sort(key=lambda result: result.frame_id)
    failures.sort(key=lambda failure: failure.frame_id)
    return results, failures


def _print_table(results: Sequence[Result], outputs: Outputs) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(caption=f"Images are in {outputs.folder}")
    table.add_column("image", overflow="fold")
    for heading in ("SNR / dB", "PSNR decoded", "restored / dB", "queue / s", "restore", "in all"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            outputs.names[result.frame_id],
            f"{result.realised_snr_db:.2f}",
            f"{result.decoded_psnr_db:.2f}",
            f"{result.restored_psnr_db:.2f}",
            f"{result.timings.queue_seconds:.2f}",
            f"{result.timings.restore_seconds:.2f}",
            f"{result.timings.end_to_end_seconds:.2f}",
        )
    Console().print(table)
