"""Distortion of what came back against the original."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def psnr_db(original: NDArray[Any], image: NDArray[np.uint8]) -> float:
    r"""Peak signal-to-noise ratio, :math:`10 \log_{10}(1 / \mathrm{MSE})`.

    Arguments:
        original: RGB, uint8 or float in [0, 1], with shape (H, W, 3).
        image: RGB, uint8, same shape.

    Returns:
        The ratio in dB; infinite for identical images.
    """
    difference = unit(original) - unit(image)
    mse = float(np.mean(np.square(difference), dtype=np.float64))
    return -10 * math.log10(mse) if mse > 0 else math.inf


def unit(image: NDArray[Any]) -> NDArray[np.float32]:
    """The image as float32 in [0, 1]."""
    floats: NDArray[np.float32] = image.astype(np.float32, copy=False)
    return floats / np.float32(255) if image.dtype == np.uint8 else floats
