"""Images between the services' form, the metrics' and files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Pixels: TypeAlias = NDArray[np.uint8]  # RGB, (H, W, 3)


def to_images(pixels: Sequence[Pixels]) -> Tensor:
    """Images of one size, RGB uint8 (H, W, 3) each, as floats in [0, 1], (N, 3, H, W)."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div(255)


def to_pixels(images: Tensor) -> list[Pixels]:
    """Floats in [0, 1], (N, 3, H, W), rounded to RGB uint8 (H, W, 3) each."""
    rounded = images.mul(255).round().clamp(0, 255).to(torch.uint8)
    return list(rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy())


def to_png(pixels: Pixels) -> bytes:
    """A PNG file of RGB uint8, (H, W, 3); nothing is lost."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def from_png(data: bytes) -> Pixels:
    """The pixels of :func:`to_png`."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)
