"""The parts of a sweep: keys, the cache, whole batches, and what means are made of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evaluation.cache import CacheError, FolderCache, MemoryCache, write_whole
from evaluation.cells import (
    METRICS,
    Arithmetic,
    Cell,
    CellError,
    CellResult,
    Shard,
    cell_key,
    compute,
    make_shards,
)
from evaluation.images import Pixels, from_png, to_images, to_pixels, to_png
from evaluation.link_schemes import consecutive
from evaluation.local_link import Frame
from evaluation.sweep import Plan, Serial, Sweep
from evaluation.tables import (
    ImageRow,
    SetDistances,
    check_set_size,
    image_table,
    summaries,
    summary_table,
)


def frame(number: int, size: int = 32) -> Frame:
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), np.uint8)
    return Frame(number, pixels, f"{number}.png")


@dataclass(frozen=True)
class Shift:
    """A scheme that adds a grey level for every dB."""

    name: str = "shift"
    steps: int = 0
    depends_on: Mapping[str, Any] = field(default_factory=lambda: {"kind": "shift"})

    def identity(self) -> Mapping[str, Any]:
        return self.depends_on

    def check(self, snr_db: float) -> None:
        pass

    def send(
        self, frames: Sequence[Frame], snr_db: float, seed: int, on_progress: Any
    ) -> list[Pixels]:
        if snr_db > 100:
            raise RuntimeError("too loud")
        return [np.where(f.pixels < 128, f.pixels + int(snr_db), f.pixels) for f in frames]


CELL = Cell("shift", 3.0, seed=1, shard=0)
SHARD = Shard(0, (frame(0), frame(1)))
CPU = Arithmetic("cpu")


@pytest.mark.parametrize(
    "changed",
    [
        (replace(CELL, snr_db=3.5), Shift(), SHARD, CPU),
        (replace(CELL, seed=2), Shift(), SHARD, CPU),
        (CELL, Shift(depends_on={"kind": "shift", "steps": 2}), SHARD, CPU),
        (CELL, Shift(), Shard(0, (frame(0), frame(2))), CPU),
        (CELL, Shift(), Shard(0, (frame(0), Frame(2, frame(1).pixels))), CPU),
        (CELL, Shift(), Shard(0, (frame(0),)), CPU),
        (CELL, Shift(), SHARD, Arithmetic("cuda")),
        (CELL, Shift(), SHARD, Arithmetic("cpu", threads=2)),
    ],
)
def test_key_depends_on_all_that_determines_the_result(changed: tuple[Any, ...]) -> None:
    assert cell_key(*changed) != cell_key(CELL, Shift(), SHARD, CPU)


def test_key_depends_on_nothing_else() -> None:
    renamed = Shard(4, tuple(replace(each, name="other") for each in SHARD.frames))
    same = cell_key(replace(CELL, scheme="other", shard=4), Shift("other"), renamed, CPU)
    assert same == cell_key(CELL, Shift(), SHARD, CPU)


def test_result_of_a_cell() -> None:
    result = compute(CELL, Shift(), SHARD)
    assert result.frame_ids == [0, 1]
    assert result.scores.keys() == METRICS.keys()
    low = SHARD.frames[0].pixels < 128
    expected = 10 * np.log10(255**2 / (9 * low.mean()))
    assert result.scores["psnr_db"][0] == pytest.approx(expected, abs=1e-4)
    assert (from_png(result.restored[0]) == SHARD.frames[0].pixels + 3 * low).all()
    with pytest.raises(CellError, match=r"shift at 101 dB, seed 1, shard 0: too loud"):
        compute(replace(CELL, snr_db=101.0), Shift(), SHARD)


def test_shards_are_consecutive_and_whole() -> None:
    frames = [frame(number) for number in (0, 1, 3, 4, 7)]
    shards = make_shards(frames, 2)
    assert [[f.frame_id for f in shard.frames] for shard in shards] == [[0, 1], [3, 4], [7]]
    assert [shard.index for shard in shards] == [0, 1, 2]
    assert [[f.frame_id for f in run] for run in consecutive(frames)] == [[0, 1], [3, 4], [7]]
    assert not list(consecutive([]))


RESULT = CellResult(
    [5, 2**64 - 1],
    {name: [0.1 + index, float("inf")] for index, name in enumerate(METRICS)},
    [to_png(frame(0).pixels), to_png(frame(1).pixels)],
    seconds=0.123456789012345678,
)


def test_cache_gives_back_the_same_bits(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path / "cells")
    assert cache.get("ab12") is None
    cache.put("ab12", RESULT)
    assert cache.get("ab12") == RESULT
    assert FolderCache(tmp_path / "cells").get("ab12") == RESULT


def test_a_damaged_cell_counts_as_missing(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path)
    cache.put("ab12", RESULT)
    [path] = tmp_path.rglob("*.parquet")
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:200] + bytes(40) + whole[240:-8]):
        path.write_bytes(damaged)
        assert cache.get("ab12") is None
    cache.put("ab12", RESULT)
    assert cache.get("ab12") == RESULT


@pytest.mark.parametrize("when", ["fsync", "replace"])
def test_dying_while_writing_leaves_the_old_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """As far as a test can die: at the last moment before the bytes, and before the name."""
    cache = FolderCache(tmp_path)

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(os, when, die)
        dying.setattr(Path, "unlink", lambda *_, **__: None)  # the dead clean nothing up
        with pytest.raises(Killed):
            cache.put("ab12", RESULT)
    assert list(tmp_path.rglob("*.part"))
    assert cache.get("ab12") is None
    cache.put("ab12", RESULT)
    assert cache.get("ab12") == RESULT
    assert len(list(tmp_path.rglob("*.parquet"))) == 1


def test_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: '.*table'"):
        write_whole_to_full(tmp_path / "table")
    assert not list(tmp_path.iterdir())


def write_whole_to_full(path: Path) -> None:
    """The system's own error, from its device that is always full."""
    real = os.fdopen

    def full(handle: int, mode: str) -> Any:
        os.close(handle)
        return real(os.open("/dev/full", os.O_WRONLY), mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdopen", full)
        write_whole(path, b"x" * 100_000)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=r"cache .*/file/cells cannot be written: Not a directory"):
        FolderCache(tmp_path / "file" / "cells")


def row(frame_id: int, seed: int, psnr_db: float, snr_db: float = 0.0) -> ImageRow:
    scores = {"ssim": 0.5, "ms_ssim": 0.6, "lpips": 0.1 * frame_id}
    return ImageRow(
        f"{frame_id}.png", frame_id, "a", 3, snr_db, seed, psnr_db=psnr_db, seconds=0.5, **scores
    )


def test_images_are_resampled_not_seeds() -> None:
    """Ten seeds of an image are no ten images: the interval is that of the images' means."""
    once = [row(i, 0, 20.0 + i) for i in range(8)]
    often = [row(i, seed, 20.0 + i + 0.1 * (seed - 4.5)) for i in range(8) for seed in range(10)]
    [narrow], [wide] = summaries(often), summaries(once)
    assert (narrow.n, narrow.seeds) == (8, 10)
    assert narrow.metrics["psnr_db"].mean == pytest.approx(23.5)
    assert narrow.metrics["psnr_db"].low == pytest.approx(wide.metrics["psnr_db"].low)
    assert narrow.metrics["psnr_db"].high == pytest.approx(wide.metrics["psnr_db"].high)
    assert narrow.seconds_per_image == 0.5


def test_where_no_interval_can_be_told() -> None:
    [alone] = summaries([row(0, 0, 20.0)])
    assert (alone.metrics["psnr_db"].low, alone.metrics["psnr_db"].high) == (None, None)
    [perfect] = summaries([row(0, 0, 20.0), row(1, 0, float("inf"))])
    assert perfect.metrics["psnr_db"].mean == float("inf")
    assert perfect.metrics["psnr_db"].low is None
    assert perfect.metrics["lpips"].low is not None


def test_tables() -> None:
    rows = [row(0, 0, 20.0), row(2**64 - 1, 2**64 - 1, 21.0, snr_db=-5.0)]
    table = image_table(rows)
    assert table["frame_id"].to_pylist() == [0, 2**64 - 1]
    assert table["seed"].to_pylist() == [0, 2**64 - 1]
    means = summary_table(summaries(rows, lambda scheme, snr_db: {"frechet_alexnet": snr_db}))
    assert means["snr_db"].to_pylist() == means["frechet_alexnet"].to_pylist() == [0.0, -5.0]
    assert means["psnr_db_low"].to_pylist() == means["fid"].to_pylist() == [None, None]


def test_pixels_survive_the_round_trip() -> None:
    pixels = frame(0).pixels
    assert (from_png(to_png(pixels)) == pixels).all()
    assert (to_pixels(to_images([pixels]))[0] == pixels).all()


def test_distances_between_sets() -> None:
    """Zero where nothing changes, larger for a larger change; small sets are refused."""
    schemes = {"shift": Shift()}
    catalogue = SimpleNamespace(scheme=schemes.__getitem__)
    shards = tuple(make_shards([frame(number) for number in range(256)], 128))
    plan = Plan(("shift",), (0.0, 20.0, 90.0), (0,), shards)
    backend = Serial(catalogue, CPU)  # type: ignore[arg-type]
    sweep = Sweep(plan, catalogue, backend, MemoryCache())  # type: ignore[arg-type]
    sweep.run(sweep.missing())
    distances = SetDistances(sweep)
    same, some, much = (distances("shift", snr_db) for snr_db in plan.snrs_db)
    assert same.keys() == {"frechet_alexnet", "kernel_alexnet"}  # FID and KID were not asked for
    assert same["frechet_alexnet"] == pytest.approx(0, abs=1e-3)
    assert same["frechet_alexnet"] + 0.01 < some["frechet_alexnet"] < much["frechet_alexnet"]
    # The kernel distance has no bias: about 0, here below.
    assert same["kernel_alexnet"] < some["kernel_alexnet"] < much["kernel_alexnet"]
    with pytest.raises(ValueError, match="255 images, --set-distances needs at least 256"):
        check_set_size(255)
