"""The INN inverts whatever its weights, and its split is the plain Haar transform."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from receiver.inn import INN, merge, split
from shared.architecture import INNArchitecture


def random_inn(seed: int, **sizes: int | bool) -> INN:
    torch.manual_seed(seed)
    inn = INN(INNArchitecture(width=8, **sizes))  # type: ignore[arg-type]
    for parameter in inn.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return inn.eval()


@given(
    seed=st.integers(0, 2**31),
    levels=st.integers(1, 3),
    lifts=st.integers(1, 3),
    snr_conditioned=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 3.0]),
)
@torch.no_grad()
def test_inverse_undoes_forward(
    seed: int, levels: int, lifts: int, snr_conditioned: bool, scale: float
) -> None:
    inn = random_inn(seed, levels=levels, lifts=lifts, snr_conditioned=snr_conditioned)
    x = torch.randn(2, 3, 16, 16) * scale
    snr_db = torch.tensor([-5.0, 5.0])
    c, details = inn(x, snr_db)
    assert c.shape == (2, 3, 16 // 2**levels, 16 // 2**levels)
    assert (inn.inverse(c, details, snr_db) - x).abs().max() < 1e-4 * max(1, scale)


@pytest.mark.parametrize("levels", [1, 2, 3])
@torch.no_grad()
def test_replacing_the_coarse_part_is_forward_then_inverse(levels: int) -> None:
    inn = random_inn(0, levels=levels, lifts=2, patch_size=2, snr_conditioned=True)
    x, snr_db = torch.randn(2, 3, 32, 32), torch.tensor([-5.0, 5.0])
    c, details = inn(x, snr_db)
    other = torch.randn_like(c)
    wanted = inn.inverse(other, details, snr_db)
    torch.testing.assert_close(inn.replace_coarse(x, other, snr_db), wanted)
    assert (wanted - x).abs().max() > 0.1, "another coarse part makes another image"


def test_nothing_is_lost_or_repeated_by_the_split() -> None:
    """As many numbers out as in, and a linear map of full rank between them."""
    pixels = torch.eye(3 * 4 * 4).reshape(-1, 3, 4, 4)
    c, d = split(pixels)
    matrix = torch.cat([c.flatten(1), d.flatten(1)], 1)
    assert matrix.shape == (48, 48)
    assert torch.linalg.matrix_rank(matrix) == 48
    torch.testing.assert_close(merge(c, d), pixels)


def test_coarse_part_of_the_split_is_the_block_mean() -> None:
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(split(x)[0], torch.nn.functional.avg_pool2d(x, 2))


def test_differences_see_edges_in_their_direction() -> None:
    columns = torch.tensor([1.0, 0.0]).repeat(4).expand(1, 1, 8, 8)
    _, d = split(columns)
    torch.testing.assert_close(d[0, :, 0, 0], torch.tensor([0.5, 0.0, 0.0]))


def test_an_untrained_inn_is_the_plain_split() -> None:
    inn = INN(INNArchitecture(levels=2))
    x = torch.rand(1, 3, 16, 16)
    c, _ = inn(x, torch.zeros(1))
    torch.testing.assert_close(c, inn.coarse(x))


@pytest.mark.parametrize("snr_conditioned", [False, True])
def test_only_a_conditioned_inn_heeds_the_snr(snr_conditioned: bool) -> None:
    inn = random_inn(0, snr_conditioned=snr_conditioned)
    x = torch.rand(1, 3, 16, 16)
    low, high = (inn(x, torch.tensor([snr]))[0] for snr in (-5.0, 5.0))
    assert torch.equal(low, high) != snr_conditioned
