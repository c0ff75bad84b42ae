r"""The invertible network that imitates the link's degradation, Fig. 3.

It splits an image into a coarse part c, trained to equal what the DeepJSCC decoder gives, and the
detail d that the link loses. Images and coarse parts are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.architecture import INNArchitecture
from shared.nn.af import SNR_SCALE_DB
from shared.nn.residual import conv3x3


def _haar(blocks: Tensor) -> Tensor:
    """Sum and horizontal, vertical, diagonal difference of the pixels (a b / c d) of each block.

    (B, C, 4, H, W) to the same shape; its own inverse up to a factor of 4. Written as sums so that
    autocast leaves it in single precision: what is split must come together again.
    """
    a, b, c, d = blocks.unbind(2)
    return torch.stack([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], dim=2)


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """The lossless Haar split.

    Arguments:
        x: (B, C, H, W) with even H and W.

    Returns:
        The mean of each 2x2 block, (B, C, H/2, W/2), and its three differences,
        (B, 3C, H/2, W/2), on the same scale.
    """
    channels = x.shape[1]
    mixed = _haar(F.pixel_unshuffle(x, 2).unflatten(1, (channels, 4))) / 4
    return mixed[:, :, 0], mixed[:, :, 1:].flatten(1, 2)


def merge(coarse: Tensor, detail: Tensor) -> Tensor:
    """The exact inverse of :func:`split`."""
    differences = detail.unflatten(1, (coarse.shape[1], 3))
    blocks = _haar(torch.cat([coarse[:, :, None], differences], dim=2))
    return F.pixel_shuffle(blocks.flatten(1, 2), 2)


def coarse_part(x: Tensor, levels: int) -> Tensor:
    """What ``levels`` plain splits leave: block means, (B, C, H/2^L, W/2^L) of (B, C, H, W)."""
    for _ in range(levels):
        x, _ = split(x)
    return x


class _Branch(nn.Module):
    """PNet or UNet: a small residual network whose last layer starts at zero."""

    def __init__(self, inputs: int, outputs: int, architecture: INNArchitecture) -> None:
        super().__init__()
        width, pixels = architecture.width, architecture.patch_size**2
        self.patch_size = architecture.patch_size
        self.stem = conv3x3(inputs * pixels + architecture.snr_conditioned, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), conv3x3(width, width), nn.SiLU(), conv3x3(width, width))
            for _ in range(architecture.blocks)
        )
        self.head = conv3x3(width, outputs * pixels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, plane: Tensor | None) -> Tensor:
        x = F.pixel_unshuffle(x, self.patch_size)
        if plane is not None:
            x = torch.cat([x, plane.expand(-1, -1, *x.shape[2:])], dim=1)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = x + block(x)
        return F.pixel_shuffle(self.head(F.silu(x)), self.patch_size)


class _Level(nn.Module):
    """One split followed by lifting steps ``d += PNet(c)``, ``c += UNet(d)``."""

    def __init__(self, architecture: INNArchitecture) -> None:
        super().__init__()
        lifts = range(architecture.lifts)
        self.predict = nn.ModuleList(_Branch(3, 9, architecture) for _ in lifts)
        self.update = nn.ModuleList(_Branch(9, 3, architecture) for _ in lifts)

    def forward(self, x: Tensor, plane: Tensor | None) -> tuple[Tensor, Tensor]:
        c, d = split(x)
        for predict, update in zip(self.predict, self.update, strict=True):
            d = d + predict(c, plane)
            c = c + update(d, plane)
        return c, d

    def inverse(self, c: Tensor, d: Tensor, plane: Tensor | None) -> Tensor:
        for predict, update in zip(reversed(self.predict), reversed(self.update), strict=True):
            c = c - update(d, plane)
            d = d - predict(c, plane)
        return merge(c, d)


class INN(nn.Module):
    """Invertible to float round-off by construction, whatever its weights.

    Arguments:
        architecture: Sizes of the network, from the bundle.

    Source: Chen et al., "CommIN", 2023, section 3.2; You et al., "INDIGO", 2023.
    """

    def __init__(self, architecture: INNArchitecture) -> None:
        super().__init__()
        self.conditioned = architecture.snr_conditioned
        self.levels = nn.ModuleList(_Level(architecture) for _ in range(architecture.levels))

    def forward(self, x: Tensor, snr_db: Tensor) -> tuple[Tensor, list[Tensor]]:
        """INN_Forward.

        Arguments:
            x: (B, 3, H, W) in [-1, 1].
            snr_db: The link's SNR in dB, (B,); of use to a conditioned network only.

        Returns:
            c, (B, 3, H/2^L, W/2^L), and the detail d, one (B, 9, H/2^l, W/2^l) tensor a level.
        """
        plane = self._plane(snr_db)
        c, details = x, []
        for level in self.levels:
            c, d = level(c, plane)
            details.append(d)
        return c, details

    def inverse(self, c: Tensor, details: Sequence[Tensor], snr_db: Tensor) -> Tensor:
        """INN_Inverse: the image with coarse part ``c`` and detail ``details``."""
        plane = self._plane(snr_db)
        for level, d in zip(reversed(self.levels), reversed(details), strict=True):
            assert isinstance(level, _Level)
            c = level.inverse(c, d, plane)
        return c

    def coarse(self, y: Tensor) -> Tensor:
        """A decoded image brought to c's size by the plain split: (B, 3, H/2^L, W/2^L)."""
        return coarse_part(y, len(self.levels))

    def branches(self) -> list[nn.ModuleList]:
        """The networks in the lifting steps, by level and kind; all else is fixed arithmetic."""
        levels = (each for each in self.modules() if isinstance(each, _Level))
        return [lifts for level in levels for lifts in (level.predict, level.update)]

    def _plane(self, snr_db: Tensor) -> Tensor | None:
        return snr_db[:, None, None, None] / SNR_SCALE_DB if self.conditioned else None
