"""Random draws of a frame: a function of (seed, frame id) and the purpose, of nothing else.

A counter-based generator needs no state between frames, so batch mates, order, replica and
retries change no draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Purpose(IntEnum):
    """What draws are for; each purpose of a frame has a stream of its own."""

    CHANNEL = 1
    DIFFUSION = 2


def generator(seed: int, frame_id: int, purpose: Purpose, step: int = 0) -> np.random.Generator:
    """The generator of one frame's draws for one purpose and step.

    Arguments:
        seed: 0 to 2^64 - 1.
        frame_id: 0 to 2^64 - 1.
        purpose: Sets the topmost counter word, so purposes never overlap.
        step: Sets the word below it; draws of an iteration are the same when it is done again.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox).
    """
    key = np.array([seed, frame_id], np.uint64)
    counter = np.array([0, 0, step, purpose], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def unit_complex_normal(draws: np.random.Generator, k: int) -> NDArray[np.complex64]:
    """k draws of CN(0, 1): variance 1/2 on I and 1/2 on Q. Shape (k,)."""
    reals = draws.standard_normal(2 * k, np.float32)
    reals *= np.float32(np.sqrt(0.5))
    return reals.view(np.complex64)


@dataclass(frozen=True)
class DiffusionNoise:
    """The diffusion noise of one frame, by step."""

    seed: int
    frame_id: int

    def draw(self, step: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draws of N(0, 1) for one step, in the given shape."""
        values = np.empty(shape, np.float32)
        self.draw_into(values, step)
        return values

    def draw_into(self, values: NDArray[np.float32], step: int) -> None:
        """Fills a contiguous array with the draws of one step."""
        draws = generator(self.seed, self.frame_id, Purpose.DIFFUSION, step)
        draws.standard_normal(out=values, dtype=np.float32)
