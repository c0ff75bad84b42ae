"""The optimal linear analogue scheme: PCA with water-filled powers, the floor for any JSCC."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from channel.awgn import awgn
from evaluation.cache import write_whole
from shared.draws import Purpose, generator, unit_complex_normal

EXACT_UP_TO = 4096  # dimensions; beyond, an exact eigendecomposition takes minutes


@dataclass(frozen=True)
class LinearAnalogue:
    r"""Sends the leading 2k principal components as k complex symbols.

    Each coefficient of variance :math:`\lambda_i` is scaled to its power :math:`p_i`, and estimated
    from what arrives by its conditional mean. The average power is :math:`\bar P = 1` on average
    over images, a weaker constraint than eq. (2) puts on DeepJSCC.

    Attributes:
        mean: Of the images, (m,).
        directions: Principal directions, (2k, m).
        variance: :math:`\lambda_i`, falling, (2k,).
    """

    mean: Tensor
    directions: Tensor
    variance: Tensor

    @classmethod
    def fit(cls, x: Tensor, symbols: int) -> LinearAnalogue:
        """Principal components of training images ``x``, (N, 3, H, W) in [0, 1], for k symbols."""
        rows = x.flatten(1)
        mean = rows.mean(0)
        return cls(mean, *principal_components(rows - mean, 2 * symbols))

    @classmethod
    def load(cls, path: Path) -> LinearAnalogue:
        """Reads what :meth:`save` wrote.

        Raises:
            ValueError: If the file is something else.
            OSError: If it cannot be read.
        """
        try:
            tensors = load_file(path)
            found = cls(**tensors)
        except (SafetensorError, TypeError) as error:
            raise ValueError(f"{path} is not a fitted linear scheme: {error}") from error
        if found.directions.shape != (len(found.variance), len(found.mean)):
            raise ValueError(f"{path} is not a fitted linear scheme: its shapes do not agree")
        return found

    def save(self, path: Path) -> None:
        """Writes the basis to a safetensors file, seen whole or not at all.

        Raises:
            OSError: If it cannot be written.
        """
        tensors = {
            "mean": self.mean,
            "directions": self.directions.contiguous(),
            "variance": self.variance,
        }
        write_whole(path, save(tensors))

    @property
    def symbols(self) -> int:
        """Complex symbols for each image, k."""
        return len(self.variance) // 2

    @property
    def digest(self) -> str:
        """Identifies the basis: sha256, hexadecimal."""
        parts = (self.mean, self.directions.contiguous(), self.variance)
        return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()

    def send(self, x: Tensor, snr_db: float, frame_ids: Sequence[int], seed: int) -> Tensor:
        """Sends images; each frame meets the noise that DeepJSCC's symbols would.

        Arguments:
            x: (N, 3, H, W) in [0, 1].
            snr_db: The SNR, which both ends know, dB.
            frame_ids: The images' ids, which with ``seed`` determine their noise.
            seed: 0 to 2^64 - 1.

        Returns:
            The receiver's images, (N, 3, H, W) in [0, 1].
        """
        noise = real_noise(snr_db)
        power = water_fill(self.variance, noise, len(self.variance) / 2)
        coefficients = (x.flatten(1) - self.mean) @ self.directions.T
        sent = coefficients * (power / self.variance).sqrt()
        z = torch.view_as_complex(sent.unflatten(1, (-1, 2)).contiguous())
        draws = [generator(seed, frame_id, Purpose.CHANNEL) for frame_id in frame_ids]
        unit_noise = torch.from_numpy(
            np.stack([unit_complex_normal(each, self.symbols) for each in draws])
        )
        received = torch.view_as_real(awgn(z, snr_db, unit_noise)).flatten(1)
        estimate = received * (self.variance * power).sqrt() / (power + noise)
        return (estimate @ self.directions + self.mean).clamp(0, 1).view_as(x)


def principal_components(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The leading directions of centred ``rows``, (N, m): (count, m), and variances, falling."""
    if rows.shape[1] > EXACT_UP_TO:
        torch.manual_seed(0)  # the range finder is random
        _, singular, directions = torch.pca_lowrank(rows, q=count + 32, center=False)
        variance = singular.square() / len(rows)
    else:
        variance, directions = torch.linalg.eigh(rows.T @ rows / len(rows))
        variance, directions = variance.flip(0), directions.flip(1)
    return directions[:, :count].T, variance[:count].clamp(min=1e-9)


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
