"""Noise on one frame's symbols, and the SNR that it came to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from channel.awgn import awgn
from shared.draws import Purpose, generator, unit_complex_normal

Symbols = NDArray[np.complex64]

# Symbols that are given noise at a time: what is made of them on the way stays in a core's cache.
BLOCK = 2**15


@dataclass(frozen=True)
class NoisySymbols:
    """Channel output of one frame.

    Attributes:
        symbols: (k,).
        realised_snr_db: The SNR of this very noise draw, dB.
    """

    symbols: Symbols
    realised_snr_db: float


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is found at the end
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
        ValueError: If z is empty, all zeros, not finite or beyond float32, so that no SNR can be
            stated.
    """
    if not len(symbols):
        raise ValueError("0 symbols, expected at least 1")
    draws = generator(seed, frame_id, Purpose.CHANNEL)
    noisy = np.empty_like(symbols)
    sent = drawn = received = 0.0
    for first in range(0, len(symbols), BLOCK):
        block = symbols[first : first + BLOCK]
        noise = unit_complex_normal(draws, len(block))
        there = noisy[first : first + BLOCK]
        there[:] = awgn(block, snr_db, noise, power)
        sent += energy(block)
        drawn += energy(noise)
        received += energy(there)
    variance = power / 10 ** (snr_db / 10)
    ratio = sent / (variance * drawn)
    if not (0 < ratio < math.inf and math.isfinite(received)):
        raise ValueError(f"average power {sent / len(symbols):g}, expected {power:g}")
    return NoisySymbols(noisy, 10 * math.log10(ratio))


def energy(symbols: Symbols) -> float:
    """The squared norm; not finite if a symbol is not."""
    reals = symbols.view(np.float32)
    return float(np.dot(reals, reals))
