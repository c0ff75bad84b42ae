"""Cells: the parts that a sweep is made of, each a pure function of what its key digests."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from evaluation import metrics
from evaluation.images import Pixels, to_images, to_png
from evaluation.local_link import Frame, OnProgress
from evaluation.schemes import Scheme

# Part of every key: raise it when the same inputs give other numbers or a cell holds other things.
CELL_FORMAT = 3

METRICS: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "psnr_db": metrics.psnr_db,
    "ssim": metrics.ssim,
    "ms_ssim": metrics.ms_ssim,
    "lpips": metrics.lpips,
}


class CellError(RuntimeError):
    """A cell that cannot be computed; says which one and why."""


@dataclass(frozen=True)
class Shard:
    """Consecutive frames of a data set, which go through every network together.

    Attributes:
        index: Its place among the shards.
        frames: The frames.
        digest: Of the frames' ids and pixels, sha256, hexadecimal.
    """

    index: int
    frames: tuple[Frame, ...]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for frame in self.frames:
            digest.update(f"{frame.frame_id} {frame.pixels.shape} ".encode())
            digest.update(frame.pixels.tobytes())
        object.__setattr__(self, "digest", digest.hexdigest())


@dataclass(frozen=True)
class Cell:
    """One scheme at one SNR with one seed on one shard.

    Attributes:
        scheme: Name of the scheme.
        snr_db: True and told SNR, dB.
        seed: With a frame's id it determines all its draws.
        shard: Index of the shard.
    """

    scheme: str
    snr_db: float
    seed: int
    shard: int

    def __str__(self) -> str:
        return f"{self.scheme} at {self.snr_db:g} dB, seed {self.seed}, shard {self.shard}"


@dataclass(frozen=True)
class Arithmetic:
    """What can change the last bits of a result.

    Attributes:
        device: Type of the device, such as "cpu".
        threads: Threads that torch computes with: sums are split among them.
    """

    device: str
    threads: int = 1


@dataclass(frozen=True)
class CellResult:
    """What a cell gives.

    Attributes:
        frame_ids: The shard's frames.
        scores: One number for each frame by each of :data:`METRICS`.
        restored: The received images, as PNG files.
        seconds: Wall time of sending, scoring left out; the one thing that differs between runs.
    """

    frame_ids: list[int]
    scores: dict[str, list[float]]
    restored: list[bytes]
    seconds: float


def make_shards(frames: Sequence[Frame], size: int) -> list[Shard]:
    """Cuts a data set into shards of ``size`` frames; the last may be smaller."""
    return [
        Shard(index, tuple(frames[first : first + size]))
        for index, first in enumerate(range(0, len(frames), size))
    ]


def cell_key(cell: Cell, scheme: Scheme, shard: Shard, arithmetic: Arithmetic) -> str:
    """Digest of everything that determines the cell's result, sha256, hexadecimal."""
    determines: dict[str, Any] = {
        "format": CELL_FORMAT,
        "torch": torch.__version__,
        "device": arithmetic.device,
        "threads": arithmetic.threads,
        "scheme": dict(scheme.identity()),
        "data": shard.digest,
        "snr_db": cell.snr_db,
        "seed": cell.seed,
    }
    return hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()


def compute(
    cell: Cell,
    scheme: Scheme,
    shard: Shard,
    threads: int = 1,
    on_progress: OnProgress = lambda frame_id, done: None,
) -> CellResult:
    """Sends the shard's frames and scores what arrives.

    Raises:
        CellError: If a frame fails.
    """
    frames = list(shard.frames)
    with torch_threads(threads):
        started = time.monotonic()
        try:
            restored = scheme.send(frames, cell.snr_db, cell.seed, on_progress)
        except Exception as error:
            raise CellError(f"{cell}: {str(error) or type(error).__name__}") from error
        seconds = time.monotonic() - started
        scores = score(frames, restored)
    return CellResult(
        frame_ids=[frame.frame_id for frame in frames],
        scores=scores,
        restored=[to_png(pixels) for pixels in restored],
        seconds=seconds,
    )


def score(frames: Sequence[Frame], restored: Sequence[Pixels]) -> dict[str, list[float]]:
    """Every metric of each image."""
    x, y = to_images([frame.pixels for frame in frames]), to_images(restored)
    return {name: metric(x, y).double().tolist() for name, metric in METRICS.items()}


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Computes with so many threads, then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
