"""Reads image data sets: Hugging Face style parquet, or a folder of image files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from shared.images import ImageError, decode_image

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


class DatasetError(ValueError):
    """The data set cannot be used at all; says which one and why."""


class ImageSource(Sequence[bytes]):
    """Encoded images of a data set, by position, with a name for each.

    Arguments:
        path: A parquet file or a folder of them, with an ``image`` column of
            ``{bytes, path}`` structs; or a folder of PNG, JPEG and WebP files, read recursively.

    Raises:
        DatasetError: If nothing is there, or there is no image in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise DatasetError(f"data set {path} does not exist")
        tables = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        if tables:
            self._open_parquet(tables)
        else:
            self._open_folder(path)
        if not self.names:
            raise DatasetError(f"data set {path} holds no images")

    def _open_parquet(self, tables: list[Path]) -> None:
        self.names: list[str] = []
        self._items: list[Any] = []
        for table in tables:
            try:
                chunks = pq.read_table(table, columns=["image"])["image"].chunks
                items = [item for chunk in chunks for item in chunk.field("bytes")]
                paths = [path for chunk in chunks for path in chunk.field("path").to_pylist()]
            except Exception as error:
                raise DatasetError(f"{table}: no readable 'image' column ({error})") from error
            self._items += items  # Arrow scalars: views, not copies
            self.names += [
                f"{table.name}[{row}]{f' {path}' if path else ''}" for row, path in enumerate(paths)
            ]

    def _open_folder(self, folder: Path) -> None:
        self._items = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        self.names = [str(item.relative_to(folder)) for item in self._items]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        item = self._items[index]
        return item.read_bytes() if isinstance(item, Path) else bytes(item.as_buffer() or b"")


class Images(Dataset[Tensor]):
    """Decoded images, uint8 RGB with shape (3, H, H), decoded when asked for.

    A corrupt image is reported once by name, and the next good one takes its place.
    """

    def __init__(self, source: ImageSource, size: int) -> None:
        self.source = source
        self.size = size
        self.corrupt: set[int] = set()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Tensor:
        for offset in range(len(self)):
            position = (index + offset) % len(self)
            image = self._decode(position)
            if image is not None:
                return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        raise DatasetError(f"data set {self.source.path}: none of {len(self)} images can be read")

    def _decode(self, position: int) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
        if position in self.corrupt:
            return None
        try:
            return decode_image(self.source[position], self.size)
        except ImageError as error:
            self.corrupt.add(position)
            log.warning("skipped corrupt image %s: %s", self.source.names[position], error)
            return None


class StepSampler(Sampler[list[int]]):
    """The batch of each training step as a function of (seed, step), so a run can resume anywhere.

    Arguments:
        length: Number of images in the data set.
        batch: Images per step, on this process.
        start: First step to yield.
        stop: One past the last step.
        seed: Selects the order.
        rank: This process.
        world: Number of processes; each sees its own part of every global batch.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        start: int,
        stop: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.length = length
        self.batch = batch
        self.steps = range(start, stop)
        self.seed = seed
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, np.empty(0, np.int64)
        for step in self.steps:
            first = (step * self.world + self.rank) * self.batch
            rows: list[int] = []
            for position in range(first, first + self.batch):
                if position // self.length != epoch:
                    epoch = position // self.length
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
                rows.append(int(order[position % self.length]))
            yield rows


def training_batches(images: Images, sampler: StepSampler, workers: int) -> DataLoader[Tensor]:
    """Batches for :mod:`training.loop`, uint8 with shape (B, 3, H, H)."""
    return DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )


def load_all(path: Path, size: int, limit: int | None = None) -> Tensor:
    """Decodes a (validation) set whole: RGB in [0, 1] with shape (N, 3, size, size).

    Corrupt images are reported by name and left out, not replaced.
    """
    images = Images(ImageSource(path), size)
    count = min(len(images), limit or len(images))
    decoded = [image for i in range(count) if (image := images._decode(i)) is not None]
    if not decoded:
        raise DatasetError(f"data set {path}: none of {count} images can be read")
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).float().div(255)
