"""Initialises the linear branch as the optimal linear analogue scheme."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from shared.nn.linear import Analysis, Synthesis

PILOT = 3.0  # amplitude before eq. (2); 1.5 and 5 gave 0.05 dB less on the training faces


@torch.no_grad()
def start_linear(analysis: Analysis, synthesis: Synthesis, x: Tensor) -> None:
    """Sets both ends from training images ``x``, (N, 3, H, W) in [0, 1].

    Principal components of the thumbnails; for each SNR of the grid, water-filled powers at the
    transmitter, conditional-mean gains and the amplitude's linear estimate at the receiver.
    """
    rows = F.adaptive_avg_pool2d(x, analysis.size).flatten(1)
    mean = rows.mean(0)
    directions, variance = principal_components(rows - mean, len(analysis.deviation))
    for end in (analysis, synthesis):
        end.mean.copy_(mean)
        end.deviation.copy_(variance.sqrt())
        end.set_directions(directions)
    whitened = (rows - mean) @ directions.T / variance.sqrt()
    reals = whitened.shape[1] + 1
    for i, snr_db in enumerate(analysis.gains.grid.tolist()):
        noise = real_noise(snr_db)
        power = water_fill(variance, noise, budget=reals / 2 - PILOT**2)
        analysis.gains.values[i] = F.pad(power.sqrt(), (0, 1), value=PILOT)
        synthesis.gains.values[i] = F.pad(power.sqrt() / (power + noise), (0, 1))
        norm = ((whitened.square() * power).sum(1) + PILOT**2).sqrt()
        factor = (reals / 2) ** 0.5 / norm  # eq. (2)'s, for each image
        spread = factor.var()
        slope = spread * PILOT / (spread * PILOT**2 + noise)
        offset = factor.mean() * (1 - slope * PILOT)
        synthesis.amplitude.values[i] = torch.stack([offset, slope])


def principal_components(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The leading directions of centred ``rows``, (N, m): (count, m), and variances, falling."""
    variance, directions = torch.linalg.eigh(rows.T @ rows / len(rows))
    return directions.flip(1)[:, :count].T, variance.flip(0)[:count].clamp(min=1e-9)


def water_fill(variance: Tensor, noise: float, budget: float) -> Tensor:
    r"""Powers that minimise :math:`\sum_i \lambda_i N / (p_i + N)` under :math:`\sum_i p_i = B`.

    :math:`p_i = (\sqrt{\lambda_i N / \nu} - N)^+`.

    Arguments:
        variance: :math:`\lambda_i`, falling, (n,).
        noise: N, the noise variance of one real channel use.
        budget: B.

    Source: Lee and Petersen, "Optimal linear coding for vector channels", IEEE Trans. Commun.,
    1976.
    """
    root = (variance * noise).sqrt()
    used = torch.arange(1, len(root) + 1)
    level = (budget + used * noise) / root.cumsum(0)  # 1 / sqrt(nu) if the first n are used
    count = int((root * level > noise).sum())
    return (root * level[count - 1] - noise).clamp(min=0)


def real_noise(snr_db: float) -> float:
    """Noise variance of one real channel use at P = 1: half of a complex symbol's, eq. (4)."""
    return float(10 ** (-snr_db / 10) / 2)
