"""``commin evaluate``: sweeps schemes over SNRs, seeds and a data set."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from console.errors import UserError, reported
from console.link import tls_files
from console.options import (
    BUNDLE,
    BundleOption,
    TLSCa,
    TLSCert,
    TLSKey,
    decibel_list,
    decibels,
    seed_list,
)
from console.progress import CellBar

if TYPE_CHECKING:
    from evaluation.catalogue import Catalogue
    from evaluation.cells import Shard
    from evaluation.sweep import Backend, Plan, Sweep
    from evaluation.tables import Summary


@dataclass(frozen=True)
class Place:
    """Where cells are computed; the options of the same names."""

    ray: str | None
    workers: int | None
    threads: int
    device: str


def evaluate(
    data: Annotated[Path, typer.Argument(help="Parquet with an image column, or image folder")],
    bundle: BundleOption = BUNDLE,
    link: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Send through this running link, not in process"),
    ] = None,
    restorers: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME…",
            help="Restorers, with steps as NAME:STEPS, and the baselines linear and digital",
        ),
    ] = "none,commin",
    snrs: Annotated[
        str, typer.Option(metavar="DB,DB…", help="SNRs in dB, separated by commas")
    ] = "-5,-3,-1,1,3,5",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many images")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Of all random draws")] = 0,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N…", help="Several seeds, in place of --seed")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps; unset: each restorer's default")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Also write the means to this file")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for tables, figures, report.html and cells")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for the results of cells; unset: OUT/cells")
    ] = None,
    baseline_data: Annotated[
        Path | None,
        typer.Option(help="Training set that the baselines are fitted to, or a .safetensors fit"),
    ] = None,
    mixed_sizes: Annotated[
        bool, typer.Option("--mixed-sizes", help="Accept images that differ in size")
    ] = False,
    set_distances: Annotated[
        bool, typer.Option("--set-distances", help="Also Fréchet and kernel distances of the sets")
    ] = False,
    inception: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Weights of Inception-v3: --set-distances has FID and KID, too"
        ),
    ] = None,
    figure_snr: Annotated[
        float | None,
        typer.Option(parser=decibels, metavar="DB", help="Of fig5; unset: the nearest to 1"),
    ] = None,
    figure_images: Annotated[int, typer.Option(min=1, max=64, help="Rows of fig5")] = 6,
    figure_data: Annotated[
        Path | None, typer.Option(help="Images of fig5, of any size; unset: the first of DATA")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Compute on a Ray cluster: local (start one here), auto, host:port or ray://…",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Workers on Ray; unset: one on each GPU, else CPU")
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads of each worker; can change the last bits")
    ] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1…")] = "auto",
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Of prior and INNs, when in process")
    ] = "fp32",
    batch: Annotated[
        int, typer.Option(min=1, max=1024, help="Images in a cell, restored at a time")
    ] = 16,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the cells and compute none")
    ] = False,
    tls_ca: TLSCa = None,
    tls_cert: TLSCert = None,
    tls_key: TLSKey = None,
) -> None:
    """Score restorers and baselines at several SNRs on a data set.

    With --out or --cache each cell (16 images, one scheme, SNR and seed) is kept when it is done,
    so the same command goes on where it was interrupted.
    """
    if workers and not ray:
        raise UserError("--workers needs --ray")
    if inception and not set_distances:
        raise UserError("--inception needs --set-distances")
    levels = list(dict.fromkeys(level + 0.0 for level in decibel_list(snrs)))  # -0 is 0
    names = list(dict.fromkeys(name.strip() for name in restorers.split(",")))
    chosen = seed_list(seeds) if seeds is not None else [seed]
    cells = cache or (out / "cells" if out else None)
    place = Place(ray, workers, threads, device)

    from evaluation.cache import FolderCache, MemoryCache
    from evaluation.catalogue import BundleSource, LinkSource, Recipe
    from evaluation.cells import CellError, Shard, make_shards
    from evaluation.evaluate import read_frames
    from evaluation.figures import grid_rows
    from evaluation.inception import InceptionFeatures
    from evaluation.outputs import nearest_snr, write_all, write_scores
    from evaluation.sweep import Plan, Sweep
    from evaluation.tables import SetDistances, check_set_size, image_rows
    from evaluation.tables import summaries as summaries_of
    from shared.bundle import BundleError

    source: BundleSource | LinkSource = BundleSource(bundle, device, batch, precision)
    if link:
        source = LinkSource(link, tls_files(tls_ca, tls_cert, tls_key))
    recipe = Recipe(source, steps)
    with reported(BundleError, CellError, ValueError, OSError), recipe.opened() as catalogue:
        grid_snr = nearest_snr(levels, figure_snr)
        _check(catalogue, names, levels, fitted=False)
        network = InceptionFeatures(inception) if inception else None
        frames = read_frames(data, catalogue.restorers.image_size, limit, mixed_sizes)
        if set_distances:
            check_set_size(len(frames))
        store = FolderCache(cells) if cells else MemoryCache()
        _fit(catalogue, names, baseline_data, cells)
        _check(catalogue, names, levels, fitted=True)
        shards = make_shards(frames, batch)
        plan = Plan(tuple(names), tuple(levels), tuple(chosen), tuple(shards))
        pictured = plan
        if out and figure_data:
            # Only pictures are made of these, no means: they may differ in size.
            shown = read_frames(figure_data, catalogue.restorers.image_size, figure_images, True)
            pictured = Plan(plan.schemes, (grid_snr,), plan.seeds[:1], (Shard(0, tuple(shown)),))
        with _backend(place, catalogue) as backend:
            sweep = Sweep(plan, catalogue, backend, store)
            grid = Sweep(pictured, catalogue, backend, store)
            if dry_run:
                _list(sweep)
                return
            _run(sweep)
            _run(grid)
        rows = list(image_rows(sweep))
        distances = SetDistances(sweep, network) if set_distances else None
        summaries = summaries_of(rows, distances)
        _print(summaries)
        if json:
            write_scores(summaries, json)
        if out:
            written = write_all(
                rows,
                summaries,
                grid_rows(grid, grid_snr, figure_images),
                out,
                grid_snr_db=grid_snr,
                provenance=_provenance(catalogue, data, plan) | _weights(inception),
            )
            print(f"written: {', '.join(map(str, written))}", file=sys.stderr)


def _check(
    catalogue: Catalogue, names: Sequence[str], levels: Sequence[float], *, fitted: bool
) -> None:
    """Finds out before minutes of fitting and hours of sending what would fail."""
    from evaluation.catalogue import is_baseline

    for name in names:
        if fitted or not is_baseline(name):
            scheme = catalogue.scheme(name)
            for snr_db in levels:
                scheme.check(snr_db)


def _fit(
    catalogue: Catalogue, names: Sequence[str], data: Path | None, folder: Path | None
) -> None:
    """Fits the baselines if there are any."""
    from evaluation.baselines.schemes import fitted
    from evaluation.catalogue import is_baseline

    if data and any(map(is_baseline, names)):
        restorers = catalogue.restorers
        catalogue.add_fit(fitted(data, restorers.image_size, restorers.symbols, folder))


@contextmanager
def _backend(place: Place, catalogue: Catalogue) -> Iterator[Backend]:
    """What computes the cells."""
    from evaluation.cells import Arithmetic
    from evaluation.sweep import Serial
    from shared.weights import pick_device

    if place.ray is None:
        yield Serial(catalogue, Arithmetic(pick_device(place.device).type, place.threads))
        return

    from evaluation.ray_backend import RayBackend, ray_cluster

    with ray_cluster(place.ray, place.workers) as ray:
        yield RayBackend(ray, catalogue.recipe, place.threads, place.workers, place.device)


def _list(sweep: Sweep) -> None:
    """Prints every cell, and whether its result is there."""
    missing = set(sweep.missing())
    for cell in sweep.plan.cells:
        state = "to compute" if cell in missing else "cached"
        print(f"{sweep.key(cell)[:12]}  {state:10}  {cell}")
    total = len(sweep.plan.cells)
    print(f"{total} cells, {total - len(missing)} cached, {len(missing)} to compute")


def _run(sweep: Sweep) -> None:
    """Computes what is missing under a progress bar that counts images and cells."""
    missing, shards = sweep.missing(), sweep.plan.shards
    if not missing:
        return
    images = {cell: len(shards[cell.shard].frames) for cell in sweep.plan.cells}
    cached = sum(images[cell] for cell in images.keys() - set(missing))
    with CellBar(sum(images.values()), cached, len(images), len(missing)) as bar:
        sweep.run(
            missing,
            on_images=lambda cell, done: bar.update(f"{cell.scheme} at {cell.snr_db:g} dB", done),
            on_done=lambda cell: bar.finish(images[cell]),
        )


def _provenance(catalogue: Catalogue, data: Path, plan: Plan) -> dict[str, str]:
    """What the report says of where the numbers come from."""
    return {
        "command": shlex.join(["commin", *sys.argv[1:]]),
        "models": catalogue.restorers.description,
        "data": f"{data.name}: {plan.frames} images, sha256 {_data_digest(plan.shards)}",
        "seeds": ", ".join(map(str, plan.seeds)),
    }


def _weights(inception: Path | None) -> dict[str, str]:
    """Which weights FID and KID are over."""
    from shared.bundle import sha256

    return {"Inception-v3": f"{inception.name}, sha256 {sha256(inception)}"} if inception else {}


def _data_digest(shards: Sequence[Shard]) -> str:
    import hashlib

    return hashlib.sha256("".join(shard.digest for shard in shards).encode()).hexdigest()


def _print(summaries: Sequence[Summary]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Mean over images")
    for heading in (
        "restorer",
        "SNR / dB",
        "PSNR / dB",
        "SSIM",
        "MS-SSIM",
        "LPIPS",
        "images",
        "s / image",
    ):
        table.add_column(heading, justify="left" if heading == "restorer" else "right")
    for summary in summaries:
        means = {name: interval.mean for name, interval in summary.metrics.items()}
        table.add_row(
            summary.restorer,
            f"{summary.snr_db:g}",
            f"{means['psnr_db']:.2f}",
            f"{means['ssim']:.4f}",
            f"{means['ms_ssim']:.4f}",
            f"{means['lpips']:.4f}",
            str(summary.n),
            f"{summary.seconds_per_image:.3f}",
        )
    Console().print(table)
