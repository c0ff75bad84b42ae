"""``commin evaluate``: scores a bundle in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.errors import reported
from console.options import BUNDLE, BundleOption, decibel_list
from console.progress import image_counter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evaluation.evaluate import Row
    from evaluation.local_link import Frame, LocalLink, Settings


def evaluate(
    data: Annotated[Path, typer.Argument(help="Parquet with an image column, or image folder")],
    bundle: BundleOption = BUNDLE,
    restorers: Annotated[str, typer.Option(help="Names, separated by commas")] = "none,commin",
    snrs: Annotated[
        str, typer.Option(metavar="DB,DB…", help="SNRs in dB, separated by commas")
    ] = "-5,-3,-1,1,3,5",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many images")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Of all random draws")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps; unset: each restorer's default")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the rows to this file")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1…")] = "auto",
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Images restored at a time")] = 16,
) -> None:
    """Score restorers at several SNRs on a data set (mean PSNR and LPIPS)."""
    levels = decibel_list(snrs)
    names = [name.strip() for name in restorers.split(",")]

    from evaluation.evaluate import check_cells, read_frames
    from evaluation.local_link import LocalLink, Settings
    from shared.bundle import Bundle, BundleError
    from shared.weights import pick_device

    cells = [Settings(name, snr, seed, steps) for name in names for snr in levels]
    with reported(BundleError, ValueError, OSError):
        link = LocalLink(Bundle.open(bundle), pick_device(device), batch)
        check_cells(link, cells)
        frames = read_frames(data, link.image_size, limit)
        rows = _run(link, frames, cells)
        _print(rows)
        if json:
            _write(rows, json)


def _run(link: LocalLink, frames: list[Frame], cells: list[Settings]) -> list[Row]:
    """Scores all cells under a progress bar that counts images."""
    from evaluation.evaluate import evaluate
    from shared.errors import FrameError

    with reported(FrameError), image_counter() as progress:
        bar = progress.add_task("", total=len(cells) * len(frames))

        def show(cell: Settings, images: float) -> None:
            done = cells.index(cell) * len(frames) + images
            progress.update(
                bar, completed=done, description=f"{cell.restorer} at {cell.snr_db:g} dB"
            )

        return list(evaluate(link, frames, cells, show))


def _print(rows: Iterable[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Mean over images")
    for heading in ("restorer", "SNR / dB", "PSNR / dB", "LPIPS", "images", "s / image"):
        table.add_column(heading, justify="left" if heading == "restorer" else "right")
    for row in rows:
        table.add_row(
            row.restorer,
            f"{row.snr_db:g}",
            f"{row.psnr_db:.2f}",
            f"{row.lpips:.4f}",
            str(row.n),
            f"{row.seconds_per_image:.3f}",
        )
    Console().print(table)


def _write(rows: Iterable[Row], path: Path) -> None:
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([row.to_json() for row in rows], indent=2) + "\n")
