"""The convolutional attention block of learned image coders."""

from __future__ import annotations

from torch import Tensor, nn

from shared.nn.residual import conv3x3


class _ResidualUnit(nn.Module):
    """A bottleneck: 1x1 to C/2, 3x3, 1x1 back to C, skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            nn.Conv2d(channels, half, 1),
            nn.LeakyReLU(inplace=True),
            conv3x3(half, half),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(half, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class AttentionBlock(nn.Module):
    """x + trunk(x) * sigmoid(mask(x)), which spends capacity where the image is hard.

    Arguments:
        channels: Number of channels C of the (B, C, H, W) features; the shape is kept.
        units: Residual units in the trunk and in the mask branch.

    Source: Cheng et al., "Learned Image Compression with Discretized Gaussian Mixture
    Likelihoods and Attention Modules", CVPR 2020 (its simplified module, three units).
    """

    def __init__(self, channels: int, units: int = 3) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(_ResidualUnit(channels) for _ in range(units)))
        self.mask = nn.Sequential(
            *(_ResidualUnit(channels) for _ in range(units)),
            nn.Conv2d(channels, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.trunk(x) * self.mask(x)
        return out
