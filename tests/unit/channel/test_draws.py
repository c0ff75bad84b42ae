"""A frame's draws depend on its seed and id, and on nothing that happens around it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shared.draws import DiffusionNoise, Purpose, generator, unit_complex_normal

K = 256
uint64s = st.integers(0, 2**64 - 1)
purposes = st.sampled_from(Purpose)


def noise(seed: int, frame_id: int) -> NDArray[np.complex64]:
    return unit_complex_normal(generator(seed, frame_id, Purpose.CHANNEL), K)


@given(uint64s, uint64s, purposes, st.integers(0, 1000))
def test_the_same_key_gives_the_same_bits(
    seed: int, frame_id: int, purpose: Purpose, step: int
) -> None:
    first = unit_complex_normal(generator(seed, frame_id, purpose, step), K)
    again = unit_complex_normal(generator(seed, frame_id, purpose, step), K)
    assert first.tobytes() == again.tobytes()


@given(st.permutations(range(8)))
def test_order_changes_no_draw(order: list[int]) -> None:
    in_order = {frame_id: noise(3, frame_id).tobytes() for frame_id in range(8)}
    assert {frame_id: noise(3, frame_id).tobytes() for frame_id in order} == in_order


def test_interleaved_generators_do_not_disturb_each_other() -> None:
    """As in a batch: draws are taken from many frames' generators in turn."""
    alone = [generator(3, frame_id, Purpose.CHANNEL).standard_normal(10) for frame_id in range(4)]
    together = [generator(3, frame_id, Purpose.CHANNEL) for frame_id in range(4)]
    rows = [[draws.standard_normal() for draws in together] for _ in range(10)]
    np.testing.assert_array_equal(np.transpose(rows), alone)


def test_the_bits_themselves_are_fixed() -> None:
    """Written down once: a numpy or a change of ours that alters them breaks every stored seed."""
    assert noise(0, 0)[:2].tobytes().hex() == "383f883f72b0bb3ef20eb03d941123bf"
    assert noise(2**64 - 1, 2**64 - 1)[:2].tobytes().hex() == "82f735bebd82233e7feab93f00f5703d"
    assert DiffusionNoise(1, 2).draw(3, (2,)).tobytes().hex() == "fda2313f43eacbbf"


@given(uint64s, uint64s, uint64s, uint64s, purposes, purposes)
def test_another_key_gives_independent_draws(
    seed: int, other_seed: int, frame: int, other_frame: int, purpose: Purpose, other: Purpose
) -> None:
    assume((seed, frame, purpose) != (other_seed, other_frame, other))
    a = unit_complex_normal(generator(seed, frame, purpose), 4096)
    b = unit_complex_normal(generator(other_seed, other_frame, other), 4096)
    assert abs(np.vdot(a, b)) / 4096 < 6 / np.sqrt(4096)


def test_neighbours_are_independent() -> None:
    """Adjacent seeds, frames, purposes and steps, also with the seed and the frame swapped."""
    keys = list(itertools.product((0, 1, 2), (0, 1, 2), Purpose, (0, 1)))
    rows = np.stack([unit_complex_normal(generator(*key), 4096) for key in keys])
    correlation = np.abs(rows @ rows.conj().T) / 4096
    np.testing.assert_allclose(np.diag(correlation), 1, atol=0.1)
    np.fill_diagonal(correlation, 0)
    assert correlation.max() < 6 / np.sqrt(4096)


def test_streams_of_a_frame_do_not_overlap() -> None:
    """Not even shifted: no window of one purpose's raw output occurs in the other's."""
    raw = [generator(5, 6, purpose).bit_generator.random_raw(10_000) for purpose in Purpose]
    assert not set(raw[0].tolist()) & set(raw[1].tolist())


@given(uint64s, uint64s, st.integers(0, 999))
def test_diffusion_noise_of_a_step_can_be_drawn_again(seed: int, frame: int, step: int) -> None:
    draws = DiffusionNoise(seed, frame)
    first = draws.draw(step, (3, 4, 4))
    draws.draw(step + 1, (3, 4, 4))
    assert first.shape == (3, 4, 4)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(draws.draw(step, (3, 4, 4)), first)
    assert not np.array_equal(draws.draw(step + 1, (3, 4, 4)), first)


@pytest.mark.parametrize(("seed", "frame_id"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**64)])
def test_keys_outside_64_bits_are_refused(seed: int, frame_id: int) -> None:
    with pytest.raises(OverflowError):
        generator(seed, frame_id, Purpose.CHANNEL)
