"""The residual discriminator of StyleGAN-2."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from receiver.stylegan2 import EqualConv, EqualLinear, activate

GROUP = 4  # images that share a standard deviation


class _Down(nn.Module):
    """Halves height and width; a residual block that keeps the variance."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.keep = EqualConv(inputs, inputs, 3)
        self.change = EqualConv(inputs, outputs, 3)
        self.skip = EqualConv(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.avg_pool2d(activate(self.keep(x)), 2)
        y = activate(self.change(y))
        shortcut: Tensor = self.skip(F.avg_pool2d(x, 2))
        return (shortcut + y) / math.sqrt(2)


class Discriminator(nn.Module):
    """Tells photographs from generated images: high scores for the former.

    Arguments:
        channels: Widths from 4x4 pixels up to the image, as in the generator's architecture.

    Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020.
    Images are halved by averaging, before a block's second convolution: cheaper than the source's
    filtered convolution of stride 2.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        falling = channels[::-1]
        self.from_rgb = EqualConv(3, falling[0], 1)
        self.blocks = nn.Sequential(
            *(_Down(inputs, outputs) for inputs, outputs in itertools.pairwise(falling))
        )
        last = falling[-1]
        self.mix = EqualConv(last + 1, last, 3)
        self.dense = EqualLinear(last * 4 * 4, last)
        self.score = EqualLinear(last, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores, (B,), of images in [-1, 1], (B, 3, H, W)."""
        x = self.blocks(activate(self.from_rgb(x)))
        x = activate(self.mix(torch.cat([x, batch_deviation(x)], 1)))
        score: Tensor = self.score(activate(self.dense(x.flatten(1))))
        return score[:, 0].float()


def batch_deviation(x: Tensor) -> Tensor:
    """How much the images of a group differ, as a plane: (B, C, H, W) to (B, 1, H, W)."""
    group = math.gcd(len(x), GROUP)
    groups: Tensor = x.float().unflatten(0, (group, -1))  # image i is in group i mod (B / group)
    deviation = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    return deviation.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:]).to(x.dtype)
