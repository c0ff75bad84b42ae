"""A sweep's results as tidy tables: one row for each image, and one for each mean."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from torch import Tensor

from evaluation.alexnet import AlexNetFeatures
from evaluation.cache import write_whole
from evaluation.cells import METRICS, Cell
from evaluation.images import from_png, to_images
from evaluation.inception import BATCH, InceptionFeatures
from evaluation.metrics import (
    bootstrap_interval,
    features_of,
    frechet_distance,
    kernel_distance,
)
from evaluation.sweep import Sweep

COLUMN_TYPES = {  # all others are 64-bit floats
    "image": pa.string(),
    "restorer": pa.string(),
    "frame_id": pa.uint64(),
    "seed": pa.uint64(),
    "steps": pa.uint32(),
    "n": pa.uint32(),
    "seeds": pa.uint32(),
}
# Names of distances between sets of images. FID is left empty for a set of fewer images than it
# has features, 2048.
SET_DISTANCES = ("frechet_alexnet", "kernel_alexnet", "fid", "kid")
LEAST_FOR_SETS = 256  # images; AlexNet's features, below which their covariance is singular


@dataclass(frozen=True)
class ImageRow:
    """One image as one scheme brought it over at one SNR with one seed.

    Attributes:
        image: What its data set calls it.
        frame_id: Its id.
        restorer: Name of the scheme.
        steps: Denoising steps; 0 for none.
        snr_db: True and told SNR, dB.
        seed: Of all draws.
        psnr_db: Peak signal-to-noise ratio, dB.
        ssim: Structural similarity.
        ms_ssim: The same at several scales; see :func:`evaluation.metrics.ms_ssim`.
        lpips: LPIPS (alex).
        seconds: Wall time, its shard's divided by the images in it.
    """

    image: str
    frame_id: int
    restorer: str
    steps: int
    snr_db: float
    seed: int
    psnr_db: float
    ssim: float
    ms_ssim: float
    lpips: float
    seconds: float


@dataclass(frozen=True)
class Interval:
    """A mean over images, and where it lies with 95% confidence; None if that cannot be told."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Summary:
    """One scheme at one SNR.

    Attributes:
        restorer: Name of the scheme.
        snr_db: True and told SNR, dB.
        n: Number of images.
        seeds: Number of seeds.
        metrics: Mean and interval by each of :data:`METRICS`. An image's numbers are averaged over
            seeds first and images are resampled, since an image's draws say little of others.
        seconds_per_image: Wall time.
        distances: Of the set from that of the originals, by :data:`SET_DISTANCES`; empty if not
            asked for. None where the set is too small.
    """

    restorer: str
    snr_db: float
    n: int
    seeds: int
    metrics: dict[str, Interval]
    seconds_per_image: float
    distances: Mapping[str, float | None] = field(default_factory=dict)

    def to_row(self) -> dict[str, str | float | int | None]:
        """As one flat row."""
        row: dict[str, str | float | int | None] = {
            "restorer": self.restorer,
            "snr_db": self.snr_db,
            "n": self.n,
            "seeds": self.seeds,
        }
        for name, interval in self.metrics.items():
            row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        row["seconds_per_image"] = self.seconds_per_image
        return row | {name: self.distances.get(name) for name in SET_DISTANCES}


def image_rows(sweep: Sweep) -> Iterator[ImageRow]:
    """A row for each image of each cell, in the order of the plan.

    Raises:
        KeyError: If a cell has not been computed.
    """
    for cell in sweep.plan.cells:
        result = sweep.result(cell)
        frames = sweep.plan.shards[cell.shard].frames
        steps = sweep.scheme(cell.scheme).steps
        for position, frame in enumerate(frames):
            scores = {name: values[position] for name, values in result.scores.items()}
            yield ImageRow(
                image=frame.name,
                frame_id=frame.frame_id,
                restorer=cell.scheme,
                steps=steps,
                snr_db=cell.snr_db,
                seed=cell.seed,
                seconds=result.seconds / len(frames),
                **scores,
            )


def summaries(
    rows: Sequence[ImageRow],
    set_distances: Callable[[str, float], Mapping[str, float | None]] | None = None,
) -> list[Summary]:
    """Means over images, a row for each scheme and SNR, in the order that they come in.

    Arguments:
        rows: See :func:`image_rows`.
        set_distances: Distances of a scheme at an SNR by name; see :class:`SetDistances`. None
            leaves them out.
    """
    groups: dict[tuple[str, float], list[ImageRow]] = {}
    for row in rows:
        groups.setdefault((row.restorer, row.snr_db), []).append(row)
    found = []
    for (restorer, snr_db), group in groups.items():
        found.append(
            Summary(
                restorer=restorer,
                snr_db=snr_db,
                n=len({row.frame_id for row in group}),
                seeds=len({row.seed for row in group}),
                metrics={name: _interval(group, name) for name in METRICS},
                seconds_per_image=float(np.mean([row.seconds for row in group])),
                distances=set_distances(restorer, snr_db) if set_distances else {},
            )
        )
    return found


def _interval(rows: Sequence[ImageRow], metric: str) -> Interval:
    by_image: dict[int, list[float]] = {}
    for row in rows:
        by_image.setdefault(row.frame_id, []).append(getattr(row, metric))
    values = np.array([np.mean(each) for each in by_image.values()])
    mean = float(values.mean())
    if len(values) < 2 or not np.isfinite(values).all():
        return Interval(mean, None, None)
    return Interval(mean, *bootstrap_interval(values.tolist()))


def check_set_size(images: int) -> None:
    """Raises ValueError if a set is too small for its distance to another to mean anything."""
    if images < LEAST_FOR_SETS:
        raise ValueError(f"{images} images, --set-distances needs at least {LEAST_FOR_SETS}")


class SetDistances:
    """Distances between the set of originals and that of received images, all seeds together.

    Arguments:
        sweep: Computed.
        inception: Computes the features of FID and KID; None leaves these two out.

    Raises:
        ValueError: If the set is too small for them to mean anything.
    """

    def __init__(self, sweep: Sweep, inception: InceptionFeatures | None = None) -> None:
        plan = sweep.plan
        check_set_size(plan.frames)
        self._sweep = sweep
        self._enough_for_fid = plan.frames >= InceptionFeatures.num_features
        real = to_images([frame.pixels for shard in plan.shards for frame in shard.frames])
        self._alexnet, self._inception = AlexNetFeatures(), inception
        self._real = features_of(self._alexnet, real)
        self._real_inception = features_of(inception, real, BATCH) if inception else None

    def __call__(self, scheme: str, snr_db: float) -> dict[str, float | None]:
        """By :data:`SET_DISTANCES`, those that were asked for."""
        images = self._received(scheme, snr_db)
        fake = features_of(self._alexnet, images)
        found: dict[str, float | None] = {
            "frechet_alexnet": frechet_distance(self._real, fake),
            "kernel_alexnet": kernel_distance(self._real, fake)[0],
        }
        if self._inception is not None and self._real_inception is not None:
            real, fake = self._real_inception, features_of(self._inception, images, BATCH)
            found["fid"] = frechet_distance(real, fake) if self._enough_for_fid else None
            found["kid"] = kernel_distance(real, fake)[0]
        return found

    def _received(self, scheme: str, snr_db: float) -> Tensor:
        plan = self._sweep.plan
        cells = [
            Cell(scheme, snr_db, seed, shard)
            for seed, shard in product(plan.seeds, range(len(plan.shards)))
        ]
        files = [file for cell in cells for file in self._sweep.result(cell).restored]
        return to_images([from_png(file) for file in files])


def image_table(rows: Sequence[ImageRow]) -> pa.Table:
    """The rows as a table with a column for each attribute of :class:`ImageRow`."""
    return _table([asdict(row) for row in rows])


def summary_table(found: Sequence[Summary]) -> pa.Table:
    """The means as a table; see :meth:`Summary.to_row`."""
    return _table([summary.to_row() for summary in found])


def _table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    fields = [pa.field(name, COLUMN_TYPES.get(name, pa.float64())) for name in rows[0]]
    return pa.Table.from_pylist(rows, pa.schema(fields))


def write_table(table: pa.Table, path: Path) -> None:
    """Writes PATH.parquet and PATH.csv.

    Raises:
        OSError: If one cannot be written.
    """
    parquet, text = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet)
    pyarrow.csv.write_csv(table, text)
    write_whole(path.with_suffix(".parquet"), parquet.getvalue())
    write_whole(path.with_suffix(".csv"), text.getvalue())
