"""The complex additive white Gaussian noise channel."""

from __future__ import annotations

from typing import Any, TypeVar

# numpy and torch arrays alike; a bound on either would import it.
Symbols = TypeVar("Symbols")


def awgn(z: Symbols, snr_db: Any, unit_noise: Symbols, power: float = 1.0) -> Symbols:
    r"""Adds complex white Gaussian noise at the given channel SNR, eqs. (3)-(4).

    .. math:: \hat z = z + n, \quad n \sim \mathcal{CN}(0, \sigma^2 I), \quad
        \mathrm{SNR} = 10 \log_{10} (\bar P / \sigma^2)

    Arguments:
        z: Channel input, complex, with shape :math:`(*, k)` and average power ``power``.
        snr_db: Channel SNR in dB, where :math:`\sigma^2` is the noise variance of a *complex*
            symbol, so :math:`\sigma^2 / 2` falls on I and on Q. A number, or an array of the same
            library as ``z`` that broadcasts against it.
        unit_noise: Draws of :math:`\mathcal{CN}(0, 1)` with the shape of ``z``; the caller owns
            the generator, so that a frame's noise depends on its seed and id alone.
        power: :math:`\bar P`, linear.

    Returns:
        Channel output :math:`\hat z`, same type and shape as ``z``.

    Source: Chen et al., "CommIN", 2023, eqs. (3)-(4).
    """
    sigma = (power / 10 ** (snr_db / 10)) ** 0.5
    received: Symbols = z + sigma * unit_noise
    return received
