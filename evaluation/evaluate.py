"""Scores a bundle's restorers at several SNRs on a data set."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from evaluation.images import to_images
from evaluation.local_link import Frame, LocalLink, Settings, check_snr
from evaluation.metrics import lpips, psnr_db
from receiver.restorers import restorers_for
from shared.images import ImageError, decode_image
from training.data import DatasetError, ImageSource

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """The mean over a data set of one restorer at one SNR.

    Attributes:
        restorer: Name of the restorer.
        snr_db: True and told SNR, dB.
        psnr_db: Mean over images of the PSNR of the restored image, dB.
        lpips: Mean over images of LPIPS (alex) of the restored image.
        n: Number of images.
        seconds_per_image: Wall time, encoding included, loading and scoring not.
    """

    restorer: str
    snr_db: float
    psnr_db: float
    lpips: float
    n: int
    seconds_per_image: float

    def to_json(self) -> dict[str, str | float | int]:
        """As the fields above."""
        return asdict(self)


def read_frames(data: Path, size: int, limit: int | None = None) -> list[Frame]:
    """Decodes the first ``limit`` images of a data set; a frame's id is its image's position.

    Corrupt images are reported by name and left out; the others keep their ids.

    Raises:
        DatasetError: If there is no data set, or no image in it can be used.
    """
    source = ImageSource(data)
    count = len(source) if limit is None else min(limit, len(source))
    frames = []
    for index in range(count):
        try:
            frames.append(Frame(index, decode_image(source[index], size)))
        except ImageError as error:
            log.warning("left out corrupt image %s: %s", source.names[index], error)
    if not frames:
        raise DatasetError(f"data set {data}: none of {count} images can be read")
    return frames


def evaluate(
    link: LocalLink,
    frames: Sequence[Frame],
    cells: Sequence[Settings],
    on_progress: Callable[[Settings, float], None] = lambda cell, images: None,
) -> Iterator[Row]:
    """Scores each cell in turn.

    Arguments:
        link: The loaded bundle.
        frames: The data set; see :func:`read_frames`.
        cells: What to score: restorer, SNR, seed, steps.
        on_progress: Told how many images of the cell are done, as a fraction.

    Raises:
        FrameError: If a frame fails.
    """
    for cell in cells:
        started = time.monotonic()
        outcomes = link.send(frames, cell, _Counter(cell, on_progress))
        seconds = time.monotonic() - started
        originals = to_images([frame.pixels for frame in frames])
        restored = to_images([outcome.restored for outcome in outcomes])
        psnr, distance = score(originals, restored)
        yield Row(
            restorer=cell.restorer,
            snr_db=cell.snr_db,
            psnr_db=float(psnr.mean()),
            lpips=float(distance.mean()),
            n=len(frames),
            seconds_per_image=seconds / len(frames),
        )


def check_cells(link: LocalLink, cells: Sequence[Settings]) -> None:
    """Finds out before hours of work what would fail.

    Raises:
        ValueError: If a restorer is not in the bundle, or its steps or an SNR are out of range.
    """
    available = restorers_for(link.models)
    for cell in cells:
        check_snr(link.bundle, cell.snr_db)
        if cell.restorer not in available:
            raise ValueError(
                f"restorer {cell.restorer!r} is not in bundle {link.bundle.manifest.name}, "
                f"there are: {', '.join(available)}"
            )
        most = available[cell.restorer].max_steps
        if cell.steps is not None and most and not 1 <= cell.steps <= most:
            raise ValueError(f"{cell.steps} steps, {cell.restorer} takes 1 to {most}")


def score(originals: Tensor, images: Tensor, batch: int = 64) -> tuple[Tensor, Tensor]:
    """PSNR in dB and LPIPS of each image, (N,) both; images are (N, 3, H, W) in [0, 1]."""
    pairs = list(zip(torch.split(originals, batch), torch.split(images, batch), strict=True))
    return (
        torch.cat([psnr_db(x, y) for x, y in pairs]),
        torch.cat([lpips(x, y) for x, y in pairs]),
    )


class _Counter:
    """Adds up the parts of frames that are done."""

    def __init__(self, cell: Settings, report: Callable[[Settings, float], None]) -> None:
        self._cell = cell
        self._report = report
        self._done: dict[int, float] = {}
        self._total = 0.0

    def __call__(self, frame_id: int, done: float) -> None:
        self._total += done - self._done.get(frame_id, 0.0)
        self._done[frame_id] = done
        self._report(self._cell, self._total)
