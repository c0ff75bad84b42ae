"""Residual blocks that halve or double the resolution."""

from __future__ import annotations

from torch import Tensor, nn

from shared.nn.gdn import GDN


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps H and W (at stride 1)."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


def subpixel3x3(inputs: int, outputs: int) -> nn.Sequential:
    """Doubles H and W: a 3x3 convolution to 4x the channels, then pixel shuffle.

    Source: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient
    Sub-Pixel Convolutional Neural Network", CVPR 2016.
    """
    return nn.Sequential(conv3x3(inputs, 4 * outputs), nn.PixelShuffle(2))


class ResidualDown(nn.Module):
    """(B, C_in, H, W) to (B, C_out, H/2, W/2): strided convolution, convolution, GDN, skip."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(inputs, outputs, stride=2),
            nn.LeakyReLU(inplace=True),
            conv3x3(outputs, outputs),
            GDN(outputs),
        )
        self.skip = nn.Conv2d(inputs, outputs, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.skip(x)
        return out


class ResidualUp(nn.Module):
    """(B, C_in, H, W) to (B, C_out, 2H, 2W): mirrors :class:`ResidualDown` with inverse GDN."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            subpixel3x3(inputs, outputs),
            nn.LeakyReLU(inplace=True),
            conv3x3(outputs, outputs),
            GDN(outputs, inverse=True),
        )
        self.skip = nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.skip(x)
        return out
