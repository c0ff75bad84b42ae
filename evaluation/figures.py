"""The paper's Fig. 4 (quality against SNR) and Fig. 5 (a grid of images)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from evaluation.cache import write_whole
from evaluation.cells import Cell
from evaluation.images import Pixels, from_png
from evaluation.sweep import Sweep
from evaluation.tables import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which colour-blind readers can tell apart, yellow left out: too faint.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX"
STYLE: Any = {  # of the type that matplotlib spells out key by key
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "svg.hashsalt": "commin",  # the same figure is the same file
    "svg.fonttype": "path",
}
PANELS = {"psnr_db": "PSNR / dB  (more is better)", "lpips": "LPIPS  (less is better)"}


def quality_figure(summaries: Sequence[Summary]) -> Figure:
    """Fig. 4: PSNR and LPIPS against SNR, a line for each scheme, 95% confidence as a band."""
    schemes = dict.fromkeys(summary.restorer for summary in summaries)
    n = summaries[0].n
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 4.2), layout="constrained")
        panels = figure.subplots(1, 2)
        for axes, (metric, label) in zip(panels, PANELS.items(), strict=True):
            for index, scheme in enumerate(schemes):
                _line(axes, index, scheme, summaries, metric)
            axes.set_xlabel("channel SNR / dB")
            axes.set_ylabel(label)
            axes.set_xticks(sorted({summary.snr_db for summary in summaries}))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(len(schemes), 7), frameon=False
        )
        figure.suptitle(f"Mean over {n} images, with its 95% confidence interval", fontsize=9)
    return figure


def _line(axes: Axes, index: int, scheme: str, summaries: Sequence[Summary], metric: str) -> None:
    own = sorted((s for s in summaries if s.restorer == scheme), key=lambda s: s.snr_db)
    points = [(summary.snr_db, summary.metrics[metric]) for summary in own]
    colour = COLOURS[index % len(COLOURS)]
    snrs = [snr_db for snr_db, _ in points]
    axes.plot(
        snrs,
        [interval.mean for _, interval in points],
        color=colour,
        marker=MARKERS[index % len(MARKERS)],
        markersize=4,
        linewidth=1.6,
        linestyle="-" if index < len(COLOURS) else "--",
        label=scheme,
    )
    known = [(snr, each.low, each.high) for snr, each in points if each.low is not None]
    if known:
        where, low, high = zip(*known, strict=True)
        axes.fill_between(where, low, high, color=colour, alpha=0.16, linewidth=0)


@dataclass(frozen=True)
class Received:
    """One image in the grid, with its scores."""

    pixels: Pixels
    psnr_db: float
    lpips: float


@dataclass(frozen=True)
class GridRow:
    """An original, and what each scheme made of it."""

    original: Pixels
    received: Mapping[str, Received]


def grid_rows(sweep: Sweep, snr_db: float, images: int) -> list[GridRow]:
    """The first images of the data set at one SNR and the first seed."""
    rows = []
    for shard in sweep.plan.shards:
        cells = {
            scheme: Cell(scheme, snr_db, sweep.plan.seeds[0], shard.index)
            for scheme in sweep.plan.schemes
        }
        results = {scheme: sweep.result(cell) for scheme, cell in cells.items()}
        for position, frame in enumerate(shard.frames):
            received = {
                scheme: Received(
                    from_png(result.restored[position]),
                    result.scores["psnr_db"][position],
                    result.scores["lpips"][position],
                )
                for scheme, result in results.items()
            }
            rows.append(GridRow(frame.pixels, received))
            if len(rows) == images:
                return rows
    return rows


def grid_figure(rows: Sequence[GridRow], snr_db: float) -> Figure:
    """Fig. 5: a row for each image: the original, then each scheme's, with PSNR and LPIPS."""
    schemes = list(rows[0].received)
    columns = 1 + len(schemes)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.35 * columns, 1.5 * len(rows) + 0.5), layout="constrained")
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes, row in zip(grid, rows, strict=True):
            _show(axes[0], row.original, "PSNR in dB / LPIPS")
            for panel, received in zip(axes[1:], row.received.values(), strict=True):
                caption = f"{received.psnr_db:.1f} / {received.lpips:.3f}"
                _show(panel, received.pixels, caption)
        for axes, heading in zip(grid[0], ["original", *schemes], strict=True):
            axes.set_title(heading, fontsize=9)
        figure.suptitle(f"SNR = {snr_db:g} dB", fontsize=9)
    return figure


def _show(axes: Axes, pixels: Pixels, caption: str) -> None:
    axes.imshow(pixels, interpolation="nearest")
    axes.set_xlabel(caption, fontsize=7, color="#555555", labelpad=2)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def render(figure: Figure, kind: str) -> bytes:
    """The figure as a file, "png" or "svg", without the time of day in it."""
    file = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context(STYLE):
        figure.savefig(file, format=kind, dpi=160, metadata=metadata)
    return file.getvalue()


def write_figure(figure: Figure, path: Path) -> None:
    """Writes PATH.png and PATH.svg.

    Raises:
        OSError: If one cannot be written.
    """
    for kind in ("png", "svg"):
        write_whole(path.with_suffix(f".{kind}"), render(figure, kind))
