"""The channel adds the noise that eqs. (3)-(4) say, measured over a million symbols."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from channel.awgn import awgn
from channel.noise import BLOCK, add_noise
from shared.draws import Purpose, generator, unit_complex_normal

SYMBOLS = 1_000_000
SNRS_DB = [-5, -1, 0, 3, 10, 15, 20]

Symbols = NDArray[np.complex64]


@pytest.fixture(scope="module")
def unit_noise() -> Symbols:
    return unit_complex_normal(generator(7, 0, Purpose.CHANNEL), SYMBOLS)


@pytest.fixture(scope="module")
def z() -> Symbols:
    """Channel input of average power 1 that is not noise-like: QPSK."""
    phases = np.random.default_rng(1).integers(0, 4, SYMBOLS)
    return np.asarray(np.exp(1j * (np.pi / 4 + np.pi / 2 * phases)), np.complex64)


def power_of(x: Symbols) -> float:
    return float(np.mean(np.abs(x.astype(np.complex128)) ** 2))


@pytest.mark.parametrize("power", [1.0, 0.25, 4.0])
@pytest.mark.parametrize("snr_db", SNRS_DB)
def test_measured_snr(z: Symbols, unit_noise: Symbols, snr_db: float, power: float) -> None:
    sent = (z * np.sqrt(power)).astype(np.complex64)
    received = awgn(sent, snr_db, unit_noise, power)
    assert received.dtype == np.complex64
    measured = 10 * np.log10(power_of(sent) / power_of(received - sent))
    assert measured == pytest.approx(snr_db, abs=0.02)


@pytest.mark.parametrize("snr_db", SNRS_DB)
def test_half_of_the_variance_is_on_i_and_half_on_q(
    z: Symbols, unit_noise: Symbols, snr_db: float
) -> None:
    noise = (awgn(z, snr_db, unit_noise) - z).astype(np.complex128)
    half = 10 ** (-snr_db / 10) / 2
    # The variance of 10^6 draws has a standard error of sqrt(2 / 10^6) = 0.14%.
    assert noise.real.var() == pytest.approx(half, rel=0.006)
    assert noise.imag.var() == pytest.approx(half, rel=0.006)


def test_the_noise_is_circular_with_zero_mean(unit_noise: Symbols) -> None:
    """E[n] = 0 and E[n^2] = 0, four standard errors (10^-3) wide."""
    noise = unit_noise.astype(np.complex128)
    assert abs(noise.mean()) < 4e-3
    assert abs((noise**2).mean()) < 4e-3


def test_the_noise_is_white_and_gaussian(unit_noise: Symbols) -> None:
    noise = unit_noise.astype(np.complex128)
    for lag in (1, 2, 3):
        assert abs((noise[lag:] * noise[:-lag].conj()).mean()) < 4e-3
    # |n|^2 is exponential: its second moment is 2, with a standard error of sqrt(20) 10^-3.
    assert (np.abs(noise) ** 4).mean() == pytest.approx(2, abs=0.02)


def test_an_snr_per_row() -> None:
    z = np.ones((3, 1000), np.complex64)
    noise = np.ones_like(z)
    snr_db = np.array([[-20.0], [0.0], [20.0]], np.float32)
    received = awgn(z, snr_db, noise)
    np.testing.assert_allclose(received[:, 0], [11, 2, 1.1], rtol=1e-6)


def test_no_noise_leaves_the_symbols_as_they_are(z: Symbols) -> None:
    np.testing.assert_array_equal(awgn(z, 0.0, np.zeros_like(z)), z)


@pytest.mark.parametrize("k", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_blocks_leave_no_seam(k: int) -> None:
    """A frame's noise is that of one draw, however many blocks it is added in."""
    z = np.asarray(np.exp(1j * np.arange(k)), np.complex64)
    noise = unit_complex_normal(generator(3, 4, Purpose.CHANNEL), k)
    noisy = add_noise(z, -2.0, seed=3, frame_id=4)
    np.testing.assert_array_equal(noisy.symbols, awgn(z, -2.0, noise))
    realised = 10 * np.log10(power_of(z) / (10**0.2 * power_of(noise)))
    assert noisy.realised_snr_db == pytest.approx(realised, abs=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("at", [0, BLOCK, 2 * BLOCK - 1])
def test_one_symbol_without_an_snr_spoils_the_frame(bad: float, at: int) -> None:
    z = np.ones(2 * BLOCK, np.complex64)
    z[at] = bad
    with pytest.raises(ValueError, match="average power"):
        add_noise(z, 0.0, seed=0, frame_id=0)
