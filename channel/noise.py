"""Noise on one frame's symbols, and the SNR that it came to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from channel.awgn import awgn
from shared.draws import Purpose, generator, unit_complex_normal

Symbols = NDArray[np.complex64]


@dataclass(frozen=True)
class NoisySymbols:
    """Channel output of one frame.

    Attributes:
        symbols: (k,).
        realised_snr_db: The SNR of this very noise draw, dB.
    """

    symbols: Symbols
    realised_snr_db: float


def add_noise(
    symbols: Symbols, snr_db: float, seed: int, frame_id: int, power: float = 1.0
) -> NoisySymbols:
    r"""Sends a frame's symbols over the AWGN channel, with noise set by seed and frame id.

    Arguments:
        symbols: Channel input z, (k,).
        snr_db: :math:`10 \log_{10}(\bar P / \sigma^2)`, dB.
        seed: 0 to 2^64 - 1.
        frame_id: 0 to 2^64 - 1.
        power: :math:`\bar P`, linear.

    Raises:
        ValueError: If z is empty, all zeros or beyond float32, so that no SNR can be stated.
    """
    if not len(symbols):
        raise ValueError("0 symbols, expected at least 1")
    noise = unit_complex_normal(generator(seed, frame_id, Purpose.CHANNEL), len(symbols))
    noisy = awgn(symbols, snr_db, noise, power)
    variance = power / 10 ** (snr_db / 10)
    ratio = energy(symbols) / (variance * energy(noise))
    if not (0 < ratio < math.inf and math.isfinite(energy(noisy))):
        raise ValueError(f"average power {energy(symbols) / len(symbols):g}, expected {power:g}")
    return NoisySymbols(noisy, 10 * math.log10(ratio))


def energy(symbols: Symbols) -> float:
    """The squared norm."""
    reals = symbols.view(np.float32)
    return float(np.dot(reals, reals))
