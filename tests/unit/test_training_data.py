"""Batches are a function of (seed, step) and the rank; damaged images are named and passed over."""

from __future__ import annotations

import io
import logging
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from training.data import DatasetError, Images, ImageSource, StepSampler, load_all

SIZE = 8
sizes = st.integers(1, 20)


def flat(value: int, kind: str = "PNG") -> bytes:
    """An image that is known by its grey level."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (value, value, value)).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(path: Path, images: list[bytes], name: str | None = "face.png") -> Path:
    rows = [{"bytes": data, "path": name} for data in images]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(rows, struct)}), path)
    return path


@given(st.integers(1, 50), sizes, st.integers(0, 30), st.integers(0, 30), st.integers(0, 5))
def test_a_run_that_resumes_sees_the_same_batches(
    length: int, batch: int, resume: int, more: int, seed: int
) -> None:
    stop = resume + more
    whole = list(StepSampler(length, batch, 0, stop, seed))
    assert len(whole) == len(StepSampler(length, batch, 0, stop, seed)) == stop
    assert list(StepSampler(length, batch, resume, stop, seed)) == whole[resume:]
    assert all(len(rows) == batch for rows in whole)


@given(st.integers(1, 50), sizes, st.integers(1, 30), st.integers(1, 4))
def test_ranks_partition_the_global_batches(
    length: int, batch: int, steps: int, world: int
) -> None:
    """Together the ranks see exactly what one process with the global batch would."""
    alone = list(StepSampler(length, batch * world, 0, steps, 0))
    ranks = [list(StepSampler(length, batch, 0, steps, 0, rank, world)) for rank in range(world)]
    together = [list(chain(*rows)) for rows in zip(*ranks, strict=True)]
    assert together == alone


@given(st.integers(1, 50), sizes, st.integers(0, 5))
def test_every_epoch_is_a_permutation_of_its_own(length: int, batch: int, seed: int) -> None:
    steps = 3 * length  # with batch >= 1 that is three epochs or more
    rows = list(chain(*StepSampler(length, batch, 0, steps, seed)))
    epochs = [rows[i * length : (i + 1) * length] for i in range(3)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    if length > 20:  # where two equal shufflings in a row are out of the question
        assert epochs[0] != epochs[1] != epochs[2]
        assert epochs[0] != list(chain(*StepSampler(length, 1, 0, length, seed + 1)))


def test_a_folder_is_read_recursively_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "3.webp").write_bytes(flat(30, "WEBP"))
    (tmp_path / "1.png").write_bytes(flat(10))
    (tmp_path / "2.JPEG").write_bytes(flat(20, "JPEG"))
    (tmp_path / "notes.txt").write_text("not an image")
    source = ImageSource(tmp_path)
    assert source.names == ["1.png", "2.JPEG", "b/3.webp"]
    images = Images(source, SIZE)
    assert [round(float(images[i].float().mean()), -1) for i in range(3)] == [10, 20, 30]
    assert images[0].shape == (3, SIZE, SIZE)
    assert images[0].dtype == torch.uint8


def test_parquet_files_are_read_in_order(tmp_path: Path) -> None:
    write_parquet(tmp_path / "0001.parquet", [flat(30)], name=None)
    write_parquet(tmp_path / "0000.parquet", [flat(10), flat(20)])
    source = ImageSource(tmp_path)
    assert [source[i] for i in range(3)] == [flat(10), flat(20), flat(30)]
    assert source.names == [
        "0000.parquet[0] face.png",
        "0000.parquet[1] face.png",
        "0001.parquet[0]",
    ]
    assert len(ImageSource(tmp_path / "0000.parquet")) == 2


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_corrupt_image_is_named_once_and_the_next_takes_its_place(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = [flat(10), flat(20)[:40], flat(30)]
    if kind == "folder":
        for index, content in enumerate(data):
            (tmp_path / f"{index}.png").write_bytes(content)
        name = "1.png"
    else:
        write_parquet(tmp_path / "set.parquet", data)
        name = "set.parquet[1] face.png"
    images = Images(ImageSource(tmp_path), SIZE)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert [float(images[i].float().mean()) for i in range(3)] == [10, 30, 30]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert f"skipped corrupt image {name}" in warnings[0]


def test_the_last_image_being_corrupt_wraps_to_the_first(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set.parquet", [flat(10), b"rubbish"])
    assert float(Images(ImageSource(tmp_path), SIZE)[1].float().mean()) == 10


def test_no_readable_image_at_all_is_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set.parquet", [b"rubbish", b""])
    with pytest.raises(DatasetError, match="none of 2 images can be read"):
        Images(ImageSource(tmp_path), SIZE)[0]
    with pytest.raises(DatasetError, match="none of 2 images can be read"):
        load_all(tmp_path, SIZE)


def test_a_validation_set_leaves_the_corrupt_out(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set.parquet", [flat(0), b"rubbish", flat(255), flat(51)])
    held_out = load_all(tmp_path, SIZE)
    assert held_out.shape == (3, 3, SIZE, SIZE)
    np.testing.assert_allclose(held_out.mean((1, 2, 3)), [0, 1, 0.2], atol=1e-6)
    assert load_all(tmp_path, SIZE, limit=1).shape[0] == 1


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere does not exist"):
        ImageSource(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="holds no images"):
        ImageSource(tmp_path)


def test_parquet_without_images_is_named(tmp_path: Path) -> None:
    table = tmp_path / "wrong.parquet"
    pq.write_table(pa.table({"text": ["a"]}), table)
    with pytest.raises(DatasetError, match=r"wrong\.parquet: no readable 'image' column"):
        ImageSource(tmp_path)
    table.write_bytes(b"PAR1 but not really")
    with pytest.raises(DatasetError, match=r"wrong\.parquet: no readable 'image' column"):
        ImageSource(tmp_path)
    pq.write_table(pa.table({"image": ["a string"]}), table)
    with pytest.raises(DatasetError, match=r"wrong\.parquet: no readable 'image' column"):
        ImageSource(tmp_path)


def test_a_row_without_bytes_is_corrupt(tmp_path: Path) -> None:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array(
        [{"bytes": None, "path": "a.png"}, {"bytes": flat(10), "path": "b.png"}], struct
    )
    pq.write_table(pa.table({"image": rows}), tmp_path / "set.parquet")
    assert float(Images(ImageSource(tmp_path), SIZE)[0].float().mean()) == 10
