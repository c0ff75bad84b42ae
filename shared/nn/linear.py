r"""A linear analogue path beside the convolutions: thumbnail to symbols and back.

Initialised as the optimal linear scheme (principal components with water-filled powers,
:mod:`training.linear_start`), it makes training start where that scheme ends: convolutions are
left with what is not linear. It is not in the paper; an architecture without it is the paper's.

Eq. (2) scales each image by a factor of its own, which a linear receiver cannot know. The last
real is therefore a pilot of fixed amplitude before scaling, from which the receiver reads it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.architecture import LinearBranch


class SNRTable(nn.Module):
    """Values by SNR, linear between the grid's SNRs and constant beyond them.

    Arguments:
        grid_db: SNRs in dB, rising.
        width: Number of values n for each SNR.
    """

    grid: Tensor

    def __init__(self, grid_db: tuple[float, ...], width: int) -> None:
        super().__init__()
        self.register_buffer("grid", torch.tensor(grid_db), persistent=False)
        self.values = nn.Parameter(torch.ones(len(grid_db), width))

    def forward(self, snr_db: Tensor) -> Tensor:
        """The values at SNRs of shape (B,), in dB: (B, n)."""
        upper = torch.searchsorted(self.grid, snr_db.contiguous()).clamp(1, len(self.grid) - 1)
        low, high = self.grid[upper - 1], self.grid[upper]
        share = ((snr_db - low) / (high - low)).clamp(0, 1)[:, None]
        return torch.lerp(self.values[upper - 1], self.values[upper], share)


class _Basis(nn.Module):
    """What both ends share: n - 1 directions in thumbnail space, their deviations, the mean.

    Weights are stored with unit variance and scaled when used (equalised learning rate: Karras
    et al., "Progressive Growing of GANs", 2018), so that Adam's steps suit them.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, branch: LinearBranch, reals: int) -> None:
        super().__init__()
        self.size = branch.thumbnail
        values = 3 * branch.thumbnail**2
        self.scale = values**-0.5
        self.register_buffer("mean", torch.full((values,), 0.5))
        self.register_buffer("deviation", torch.ones(reals - 1))
        self.directions = nn.Parameter(torch.randn(reals - 1, values))
        self.gains = SNRTable(branch.snr_grid_db, reals)

    def set_directions(self, directions: Tensor) -> None:
        """Takes unit-norm rows, (n - 1, 3 S^2)."""
        self.directions.data.copy_(directions / self.scale)


class Analysis(_Basis):
    """Transmitting end: image to n = 2k reals."""

    def forward(self, x: Tensor, snr_db: Tensor) -> Tensor:
        """Whitened coefficients and the pilot times their gains.

        Arguments:
            x: RGB in [0, 1], (B, 3, H, W).
            snr_db: (B,), dB.

        Returns:
            Reals before eq. (2), (B, 2k).
        """
        thumbnail = F.adaptive_avg_pool2d(x, self.size).flatten(1) - self.mean
        whitened = F.linear(thumbnail, self.directions * self.scale) / self.deviation
        out: Tensor = F.pad(whitened, (0, 1), value=1.0) * self.gains(snr_db)
        return out


class Synthesis(_Basis):
    """Receiving end: n = 2k noisy reals to a thumbnail."""

    def __init__(self, branch: LinearBranch, reals: int) -> None:
        super().__init__(branch, reals)
        self.amplitude = SNRTable(branch.snr_grid_db, 2)

    def forward(self, reals: Tensor, snr_db: Tensor) -> Tensor:
        """The thumbnail's estimate.

        Arguments:
            reals: I and Q of the received symbols, (B, 2k).
            snr_db: (B,), dB.

        Returns:
            RGB, about [0, 1], (B, 3, S, S).
        """
        offset, slope = self.amplitude(snr_db).split(1, dim=1)
        amplitude = (offset + slope * reals[:, -1:]).clamp(min=0.1)
        whitened = (reals * self.gains(snr_db) / amplitude)[:, :-1]
        flat: Tensor = (whitened * self.deviation) @ (self.directions * self.scale) + self.mean
        thumbnail: Tensor = flat.unflatten(1, (3, self.size, self.size))
        return thumbnail
