"""The optimal linear analogue scheme: PCA with water-filled powers, the floor for any JSCC."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from channel.awgn import awgn


@dataclass(frozen=True)
class LinearAnalogue:
    r"""Sends the leading 2k principal components as k complex symbols.

    Each coefficient :math:`u_i` of variance :math:`\lambda_i` is scaled to power :math:`p_i`, and
    estimated from what arrives by its conditional mean. Powers minimise the total squared error
    :math:`\sum_i \lambda_i N / (p_i + N)`, with :math:`N = \sigma^2 / 2` the noise of a real
    channel use, under :math:`\sum_i p_i = k \bar P` on average over images:
    :math:`p_i = (\sqrt{\lambda_i N / \nu} - N)^+`.

    Attributes:
        mean: Of the images, (m,).
        basis: Principal directions in columns, (m, 2k).
        variance: :math:`\lambda_i`, falling, (2k,).

    Source: Lee and Petersen, "Optimal linear coding for vector channels", IEEE Trans. Commun.,
    1976.
    """

    mean: Tensor
    basis: Tensor
    variance: Tensor

    @classmethod
    def fit(cls, x: Tensor, symbols: int) -> LinearAnalogue:
        """Principal components of training images ``x``, (N, 3, H, W) in [0, 1], for k symbols."""
        rows = x.flatten(1)
        mean = rows.mean(0)
        torch.manual_seed(0)  # the range finder is randomised
        _, singular, basis = torch.pca_lowrank(rows - mean, q=2 * symbols + 32, center=False)
        variance = singular.square() / len(rows)
        return cls(mean, basis[:, : 2 * symbols], variance[: 2 * symbols])

    def powers(self, snr_db: float) -> Tensor:
        r""":math:`p_i` for average power :math:`\bar P = 1`, (2k,)."""
        budget, noise = len(self.variance) / 2, _real_noise(snr_db)
        root = (self.variance * noise).sqrt()
        total = root.cumsum(0)
        active = torch.arange(1, len(root) + 1)
        level = (budget + active * noise) / total  # 1 / sqrt(nu) if the first n are active
        count = int((root * level > noise).sum())
        return (root * level[count - 1] - noise).clamp(min=0)

    def send(self, x: Tensor, snr_db: float, generator: torch.Generator) -> Tensor:
        """The receiver's images, (N, 3, H, W) in [0, 1], of ``x`` sent at an SNR in dB."""
        coefficients = (x.flatten(1) - self.mean) @ self.basis
        power = self.powers(snr_db)
        scaled = coefficients * (power / self.variance).sqrt()
        z = torch.view_as_complex(scaled.unflatten(1, (-1, 2)).contiguous())
        unit_noise = torch.randn(z.shape, dtype=z.dtype, generator=generator)
        received = torch.view_as_real(awgn(z, snr_db, unit_noise)).flatten(1)
        gain = (self.variance * power).sqrt() / (power + _real_noise(snr_db))
        estimate = (received * gain) @ self.basis.T + self.mean
        return estimate.clamp(0, 1).view_as(x)


def _real_noise(snr_db: float) -> float:
    """Noise variance of one real channel use at P = 1: half of a complex symbol's."""
    return float(10 ** (-snr_db / 10) / 2)
