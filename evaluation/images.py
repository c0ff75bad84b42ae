"""Images between the services' form and the metrics'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels: TypeAlias = NDArray[np.uint8]  # RGB, (H, W, 3)


def to_images(pixels: Sequence[Pixels]) -> Tensor:
    """Images of one size, RGB uint8 (H, W, 3) each, as floats in [0, 1], (N, 3, H, W)."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div(255)
