"""Generalised divisive normalisation, the non-linearity of learned image coders."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GDN(nn.Module):
    r"""Divides (or multiplies) each channel by a pooled norm of all channels.

    .. math:: y_i = x_i \, \big(\beta_i + \sum_j \gamma_{ij} x_j^2\big)^{\mp 1/2}

    with :math:`\beta, \gamma > 0` kept positive by storing their square roots.

    Arguments:
        channels: Number of channels C.
        inverse: Multiply instead of dividing (IGDN, for decoders).

    Source: Ballé et al., "Density modeling of images using a generalized normalization
    transformation", ICLR 2016.
    """

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.sqrt_beta = nn.Parameter(torch.ones(channels))
        # A square root of exactly zero would never receive a gradient.
        self.sqrt_gamma = nn.Parameter(torch.eye(channels).mul(0.1).add(1e-4).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Normalises ``x`` of shape (B, C, H, W); the shape is kept."""
        gamma = self.sqrt_gamma.square()[:, :, None, None]
        beta = self.sqrt_beta.square() + 1e-6
        norm = F.conv2d(x.square(), gamma, beta)
        return x * (norm.sqrt() if self.inverse else norm.rsqrt())
