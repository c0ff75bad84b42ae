"""Everything that a computed sweep leaves in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.cache import write_whole
from evaluation.evaluate import rows_of
from evaluation.figures import GridRow, grid_figure, quality_figure, write_figure
from evaluation.report import environment, report
from evaluation.tables import ImageRow, Summary, image_table, summary_table, write_table

PAPERS_SNR_DB = 1.0  # of Fig. 5


def write_scores(summaries: Sequence[Summary], path: Path) -> None:
    """Writes the rows of :class:`evaluation.evaluate.Row` as JSON.

    Raises:
        OSError: If the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [row.to_json() for row in rows_of(summaries)]
    write_whole(path, (json.dumps(rows, indent=2) + "\n").encode())


def write_all(
    rows: Sequence[ImageRow],
    summaries: Sequence[Summary],
    pictures: Sequence[GridRow],
    folder: Path,
    *,
    grid_snr_db: float,
    provenance: Mapping[str, str],
) -> list[Path]:
    """Writes images and summary (Parquet and CSV), fig4 and fig5 (PNG and SVG) and report.html.

    Arguments:
        rows: The images of a sweep.
        summaries: Their means.
        pictures: What Fig. 5 shows.
        folder: Where the files go.
        grid_snr_db: SNR of Fig. 5, dB.
        provenance: What the report says of where the numbers come from.

    Returns:
        The files that a person would open.

    Raises:
        OSError: If one cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_table(image_table(rows), folder / "images")
    write_table(summary_table(summaries), folder / "summary")
    quality = quality_figure(summaries)
    grid = grid_figure(pictures, grid_snr_db)
    write_figure(quality, folder / "fig4")
    write_figure(grid, folder / "fig5")
    figures = {
        "Quality against SNR": quality,
        f"Images at {grid_snr_db:g} dB": grid,
    }
    page = folder / "report.html"
    write_whole(page, report(summaries, figures, {**provenance, **environment()}).encode())
    return [page, folder / "fig4.png", folder / "fig5.png"]


def nearest_snr(snrs_db: Sequence[float], wanted: float | None) -> float:
    """The SNR of Fig. 5: the one that was asked for, or of the plan's the nearest to the paper's.

    Raises:
        ValueError: If the one that was asked for is not in the plan.
    """
    if wanted is None:
        return min(snrs_db, key=lambda snr_db: abs(snr_db - PAPERS_SNR_DB))
    if wanted not in snrs_db:
        listed = ", ".join(f"{snr_db:g}" for snr_db in snrs_db)
        raise ValueError(f"--figure-snr {wanted:g} dB is not among --snrs {listed}")
    return wanted
