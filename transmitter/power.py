"""Average power normalisation of the channel input."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def normalise_power(z: Tensor, power: float = 1.0) -> Tensor:
    r"""Scales each image's symbols to the average power :math:`\bar P`, eq. (2).

    .. math:: z = \sqrt{k \bar P} \, \tilde z / \sqrt{\tilde z^H \tilde z}

    Arguments:
        z: Encoder output :math:`\tilde z`, complex, with shape :math:`(B, k)`.
        power: The average power per symbol :math:`\bar P`, linear.

    Returns:
        Channel input with :math:`\|z\|^2 / k = \bar P` for every row, shape :math:`(B, k)`.

    Raises:
        ValueError: If a row is all zeros, since its direction is undefined.

    Source: Chen et al., "CommIN", 2023, eqs. (1)-(2).
    """
    norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    if (norm == 0).any():
        raise ValueError("cannot normalise a row of symbols that is all zeros")
    scaled: Tensor = z * (math.sqrt(z.shape[-1] * power) / norm)
    return scaled
