"""Training and the channel service run the same noise: one function for numpy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from channel.awgn import awgn
from shared.draws import Purpose, generator, unit_complex_normal


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 1.5, 20.0])
@pytest.mark.parametrize("power", [1.0, 0.3])
def test_numpy_and_torch_agree(snr_db: float, power: float) -> None:
    z = unit_complex_normal(generator(0, 0, Purpose.CHANNEL), 4096)
    noise = unit_complex_normal(generator(0, 1, Purpose.CHANNEL), 4096)
    ours = awgn(z, snr_db, noise, power)
    theirs = awgn(torch.from_numpy(z), snr_db, torch.from_numpy(noise), power)
    assert theirs.dtype == torch.complex64
    np.testing.assert_array_equal(ours, theirs.numpy())


def test_an_snr_per_image_agrees_too() -> None:
    z = unit_complex_normal(generator(0, 0, Purpose.CHANNEL), 4096).reshape(4, 1024)
    noise = unit_complex_normal(generator(0, 1, Purpose.CHANNEL), 4096).reshape(4, 1024)
    snr_db = np.array([[-5.0], [0.0], [5.0], [20.0]], np.float32)
    ours = awgn(z, snr_db, noise)
    theirs = awgn(torch.from_numpy(z), torch.from_numpy(snr_db), torch.from_numpy(noise))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6, atol=1e-6)


def test_gradients_pass_the_channel() -> None:
    z = torch.ones(2, 8, dtype=torch.complex64, requires_grad=True)
    awgn(z, torch.zeros(2, 1), torch.ones(2, 8, dtype=torch.complex64)).abs().sum().backward()
    assert z.grad is not None
    assert bool((z.grad.abs() > 0).all())
