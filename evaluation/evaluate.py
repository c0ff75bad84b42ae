"""The data set that a sweep runs over, and its outcome in the form of ``scores.json``."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from evaluation.local_link import Frame
from evaluation.tables import Summary
from shared.images import ImageError, decode_image
from training.data import DatasetError, ImageSource

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """The mean over a data set of one restorer at one SNR.

    Attributes:
        restorer: Name of the restorer, or of a baseline.
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

    @classmethod
    def of(cls, summary: Summary) -> Row:
        """The row of a summary."""
        return cls(
            restorer=summary.restorer,
            snr_db=summary.snr_db,
            psnr_db=summary.metrics["psnr_db"].mean,
            lpips=summary.metrics["lpips"].mean,
            n=summary.n,
            seconds_per_image=summary.seconds_per_image,
        )

    def to_json(self) -> dict[str, str | float | int]:
        """As the fields above."""
        return asdict(self)


def read_frames(
    data: Path, size: int, limit: int | None = None, mixed_sizes: bool = False
) -> list[Frame]:
    """Decodes the first ``limit`` images of a data set; a frame's id is its image's position.

    Each is brought to ``size`` as the transmitter would: the centre square, resized. Corrupt images
    are reported by name and left out; the others keep their ids.

    Arguments:
        data: A parquet file or a folder; see :class:`training.data.ImageSource`.
        size: Height and width of the frames, pixels.
        limit: The most images; None for all.
        mixed_sizes: Whether images may differ in size: some are then shrunk more than others, and
            means over them mix what is not alike.

    Raises:
        DatasetError: If there is no data set, no image in it can be used, or sizes are mixed.
    """
    source = ImageSource(data)
    count = len(source) if limit is None else min(limit, len(source))
    frames: list[Frame] = []
    sizes: dict[tuple[int, int], str] = {}
    for index in range(count):
        name, encoded = source.names[index], source[index]
        try:
            pixels = decode_image(encoded, size)
        except ImageError as error:
            log.warning("left out corrupt image %s: %s", name, error)
            continue
        sizes.setdefault(_size(encoded), name)
        if len(sizes) > 1 and not mixed_sizes:
            raise DatasetError(_mixed(data, sizes))
        frames.append(Frame(index, pixels, name))
    if not frames:
        raise DatasetError(f"data set {data}: none of {count} images can be read")
    return frames


def _size(encoded: bytes) -> tuple[int, int]:
    """Width and height, pixels."""
    with Image.open(io.BytesIO(encoded)) as image:
        return image.size


def _mixed(data: Path, sizes: dict[tuple[int, int], str]) -> str:
    found = " and ".join(f"{name} is {w}x{h}" for (w, h), name in sizes.items())
    return (
        f"data set {data} mixes sizes: {found}; "
        "with --mixed-sizes the centre square of each is cut out and resized"
    )


def rows_of(summaries: Sequence[Summary]) -> list[Row]:
    """A row for each summary."""
    return [Row.of(summary) for summary in summaries]
