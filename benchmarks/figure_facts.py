"""What docs/reproduce.md states of a sweep: machine, times, and a digest of the means.

python -m benchmarks.figure_facts [docs/figures]

Reads what `commin evaluate --out` left, on the machine that computed it. Times are the cells' own,
so that a sweep in several sittings has them too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.common import FOLDER, machine

TIME = "seconds_per_image"


def main() -> None:
    """Prints rows for the table in docs/reproduce.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    figures = FOLDER.parent / "docs" / "figures"
    parser.add_argument("folder", type=Path, nargs="?", default=figures, help="of --out")
    folder = parser.parse_args().folder
    print("\n".join(facts(pq.read_table(folder / "images.parquet"), folder / "summary.csv")))


def facts(images: pa.Table, summary: Path) -> list[str]:
    """The table's rows.

    Arguments:
        images: A row for each image, scheme, SNR and seed.
        summary: ``summary.csv``.
    """
    by_scheme = images.group_by("restorer", use_threads=False)
    times = by_scheme.aggregate([("seconds", "sum"), ("seconds", "mean")]).to_pylist()
    total = sum(row["seconds_sum"] for row in times)
    each = ", ".join(f"`{row['restorer']}` {row['seconds_mean']:.2g}" for row in times)
    whole = ", ".join(f"`{row['restorer']}` {row['seconds_sum'] / 60:.1f}" for row in times)
    return [
        f"| machine | {machine()['processor']}, {_memory()}; torch {machine()['torch']} |",
        f"| time of all cells | {total / 60:.0f} minutes: {whole} |",
        f"| seconds an image | {each} |",
        f"| sha256 of `summary.csv` but for its times | `{digest(summary)}` |",
    ]


def digest(summary: Path) -> str:
    """Of all means and intervals, sha256, hexadecimal."""
    means = pyarrow.csv.read_csv(summary).drop_columns(TIME)
    return hashlib.sha256(str(means.to_pylist()).encode()).hexdigest()


def _memory() -> str:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return f"{pages * size / 2**30:.0f} GiB"


if __name__ == "__main__":
    main()
