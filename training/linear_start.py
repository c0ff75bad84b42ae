"""Initialises the linear branch as the optimal linear analogue scheme."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.baselines.linear import principal_components, real_noise, water_fill
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
        power = water_fill(variance, noise, reals / 2 - PILOT**2)
        analysis.gains.values[i] = F.pad(power.sqrt(), (0, 1), value=PILOT)
        synthesis.gains.values[i] = F.pad(power.sqrt() / (power + noise), (0, 1))
        norm = ((whitened.square() * power).sum(1) + PILOT**2).sqrt()
        factor = (reals / 2) ** 0.5 / norm  # eq. (2)'s, for each image
        spread = factor.var()
        slope = spread * PILOT / (spread * PILOT**2 + noise)
        offset = factor.mean() * (1 - slope * PILOT)
        synthesis.amplitude.values[i] = torch.stack([offset, slope])
