"""Eq. (2): every image leaves with exactly the average power that it may."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from transmitter.power import normalise_power

# Down to where float32 squares underflow and up to where they overflow.
floats = st.floats(-(2**50), 2**50, width=32).map(lambda v: v if abs(v) > 2**-50 else 0.0)
reals = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 256), st.just(2)), elements=floats
)


def average_power(z: torch.Tensor) -> NDArray[Any]:
    return np.asarray((np.abs(z.numpy().astype(np.complex128)) ** 2).mean(-1))


@given(reals, st.sampled_from([0.1, 1.0, 7.5]))
def test_average_power_is_exact(values: NDArray[np.float32], power: float) -> None:
    z = torch.view_as_complex(torch.from_numpy(values))
    if (z == 0).all(dim=1).any():
        with pytest.raises(ValueError, match="all zeros"):
            normalise_power(z, power)
        return
    sent = normalise_power(z, power)
    assert sent.dtype == torch.complex64
    np.testing.assert_allclose(average_power(sent), power, rtol=1e-5)


@given(reals)
def test_directions_are_kept(values: NDArray[np.float32]) -> None:
    z = torch.view_as_complex(torch.from_numpy(values))
    if (z == 0).all(dim=1).any():
        return
    ratio = normalise_power(z).numpy().astype(np.complex128)
    wanted = z.numpy().astype(np.complex128)
    wanted /= np.sqrt((np.abs(wanted) ** 2).mean(-1, keepdims=True))
    np.testing.assert_allclose(ratio, wanted, rtol=1e-4, atol=1e-6)


def test_each_row_is_normalised_by_itself() -> None:
    z = torch.tensor([[1 + 1j, 1 - 1j], [1000j, 0]], dtype=torch.complex64)
    together = normalise_power(z)
    for row in range(2):
        torch.testing.assert_close(together[row], normalise_power(z[row : row + 1])[0])


def test_a_row_of_zeros_has_no_direction() -> None:
    z = torch.tensor([[1 + 1j, 0], [0, 0]], dtype=torch.complex64)
    with pytest.raises(ValueError, match="all zeros"):
        normalise_power(z)
