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
    """PNet or UNet: a small residual network whose last layer starts at zero.

    Arguments:
        inputs: Channels of what it sees, whose p x p patches it takes as channels.
        outputs: Channels of what it is added to, as patches as well.
        architecture: Sizes, p among them.
    """

    def __init__(self, inputs: int, outputs: int, architecture: INNArchitecture) -> None:
        super().__init__()
        width, pixels = architecture.width, architecture.patch_size**2
        self.stem = conv3x3(inputs * pixels + architecture.snr_conditioned, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), conv3x3(width, width), nn.SiLU(), conv3x3(width, width))
            for _ in range(architecture.blocks)
        )
        self.head = conv3x3(width, outputs * pixels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, plane: Tensor | None) -> Tensor:
        if plane is not None:
            # In x's layout, or the two would have to be rearranged together.
            plane = plane.expand(-1, -1, *x.shape[2:])
            x = torch.cat([x, plane.contiguous(memory_format=torch.channels_last)], dim=1)
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        output: Tensor = self.head(F.silu(x))
        return output


class _Level(nn.Module):
    """One split followed by lifting steps ``d += PNet(c)``, ``c += UNet(d)``.

    Lifting sums do not care how pixels are arranged, so d stays in patches until it is shown.
    """

    def __init__(self, architecture: INNArchitecture) -> None:
        super().__init__()
        lifts = range(architecture.lifts)
        self.patch_size = architecture.patch_size
        self.predict = nn.ModuleList(_Branch(3, 9, architecture) for _ in lifts)
        self.update = nn.ModuleList(_Branch(9, 3, architecture) for _ in lifts)

    def forward(self, x: Tensor, plane: Tensor | None) -> tuple[Tensor, Tensor]:
        """c of an image or coarser part, and d in patches."""
        c, d = self._lift(x, plane)
        return self.unpatched(c + self.update[-1](d, plane)), d

    def detail(self, x: Tensor, plane: Tensor | None) -> Tensor:
        """d alone, in patches: c's last update, which it does not depend on, is left out."""
        return self._lift(x, plane)[1]

    def inverse(self, c: Tensor, d: Tensor, plane: Tensor | None) -> Tensor:
        """What :meth:`forward` took, of what it gave."""
        c = self.patches(c)
        for predict, update in zip(reversed(self.predict), reversed(self.update), strict=True):
            c = c - update(d, plane)
            d = d - predict(c, plane)
        return merge(self.unpatched(c), self.unpatched(d))

    def patches(self, x: Tensor) -> Tensor:
        """In the layout that branches compute in, so that nothing is rearranged between them."""
        x = F.pixel_unshuffle(x, self.patch_size)
        return x.contiguous(memory_format=torch.channels_last)

    def unpatched(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`patches`."""
        return F.pixel_shuffle(x, self.patch_size)

    def _lift(self, x: Tensor, plane: Tensor | None) -> tuple[Tensor, Tensor]:
        """c and d in patches, short of the last update."""
        c, d = map(self.patches, split(x))
        for i, predict in enumerate(self.predict):
            if i:
                c = c + self.update[i - 1](d, plane)
            d = d + predict(c, plane)
        return c, d


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
        for level in self._levels:
            c, d = level(c, plane)
            details.append(level.unpatched(d))
        return c, details

    def inverse(self, c: Tensor, details: Sequence[Tensor], snr_db: Tensor) -> Tensor:
        """INN_Inverse: the image with coarse part ``c`` and detail ``details``."""
        plane = self._plane(snr_db)
        for level, d in zip(reversed(self._levels), reversed(details), strict=True):
            c = level.inverse(c, level.patches(d), plane)
        return c

    def replace_coarse(self, x: Tensor, c: Tensor, snr_db: Tensor) -> Tensor:
        r"""Lines 6-7 of Algorithm 1, :math:`\mathrm{INN}^{-1}(c, d(x))`: x with ``c`` for its own.

        What :meth:`inverse` gives of ``c`` and the detail of :meth:`forward`, without the work on
        x's own coarse part, which nobody sees.

        Arguments:
            x: (B, 3, H, W) in [-1, 1].
            c: (B, 3, H/2^L, W/2^L).
            snr_db: (B,).
        """
        plane = self._plane(snr_db)
        return _replace(self._levels, x, c, plane)

    def coarse(self, y: Tensor) -> Tensor:
        """A decoded image brought to c's size by the plain split: (B, 3, H/2^L, W/2^L)."""
        return coarse_part(y, len(self.levels))

    def branches(self) -> list[nn.ModuleList]:
        """The networks in the lifting steps, by level and kind; all else is fixed arithmetic."""
        return [lifts for level in self._levels for lifts in (level.predict, level.update)]

    @property
    def _levels(self) -> list[_Level]:
        return [level for level in self.levels if isinstance(level, _Level)]

    def _plane(self, snr_db: Tensor) -> Tensor | None:
        return snr_db[:, None, None, None] / SNR_SCALE_DB if self.conditioned else None


def _replace(levels: Sequence[_Level], x: Tensor, c: Tensor, plane: Tensor | None) -> Tensor:
    """``c`` in the place of the coarse part that the last of the levels leaves of ``x``."""
    first, *others = levels
    if not others:
        return first.inverse(c, first.detail(x, plane), plane)
    coarser, d = first(x, plane)
    return first.inverse(_replace(others, coarser, c, plane), d, plane)
