"""Features of the AlexNet trunk, for distances between sets of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from shared.perceptual import load_lpips


class AlexNetFeatures(nn.Module):
    """Image features for distances between sets: the last convolution's, averaged over space.

    Takes RGB in [0, 1], (B, 3, H, W), and gives (B, 256).
    """

    num_features = 256

    def __init__(self) -> None:
        super().__init__()
        lpips: Any = load_lpips()
        self.scale = lpips.scaling_layer
        self.trunk = lpips.net

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        features: Tensor = self.trunk(self.scale(2 * x - 1)).relu5
        return features.mean((2, 3))
