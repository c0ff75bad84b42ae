"""What a restorer is: the pieces of an iterative sampler, so that an engine can interleave many."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from shared.bundle import FieldPath
from shared.draws import DiffusionNoise


@dataclass
class Trajectory:
    """One image on its way. Images are (3, H, W) in [-1, 1].

    Attributes:
        x: The noisy state x_t.
        x0: The present estimate of the image.
        guide: What the restorer holds on to: the decoded image, brought to c's size by an INN.
        snr_db: The SNR that the receiver was told.
        times: Times t of the steps, falling; the last step ends at 0.
        position: Steps done.
        noise: The frame's own diffusion noise.
    """

    x: Tensor
    x0: Tensor
    guide: Tensor
    snr_db: float
    times: list[int]
    noise: DiffusionNoise
    position: int = 0

    @property
    def steps(self) -> int:
        """Steps in all."""
        return len(self.times)

    @property
    def done(self) -> bool:
        """Whether ``x0`` is the result."""
        return self.position >= self.steps

    @property
    def time(self) -> int:
        """Time t of the next step."""
        return self.times[self.position]

    @property
    def next_time(self) -> int:
        """Time s that the next step ends at."""
        return self.times[self.position + 1] if self.position + 1 < self.steps else 0

    def draw(self) -> Tensor:
        """N(0, I) for the next step, in the shape of ``x`` and on its device."""
        return draw_like(self.x, self.noise, self.position + 1)

    def detach_from_batch(self) -> None:
        """Copies the images, which are rows of a batch's, so that they do not keep it alive."""
        self.x, self.x0, self.guide = self.x.clone(), self.x0.clone(), self.guide.clone()


def draw_like(x: Tensor, noise: DiffusionNoise, step: int = 0) -> Tensor:
    """A frame's noise of one step as a tensor like ``x``; step 0 is for the start."""
    return torch.from_numpy(noise.draw(step, tuple(x.shape))).to(x.device)


def draw_batch(batch: Sequence[Trajectory]) -> Tensor:
    """What :meth:`Trajectory.draw` gives for each of the batch, (B, 3, H, W), in one transfer.

    Called after a network is launched, it draws on the host while a GPU computes.
    """
    x = batch[0].x
    rows = torch.empty((len(batch), *x.shape), pin_memory=x.is_cuda)
    for row, each in zip(rows.numpy(), batch, strict=True):
        each.noise.draw_into(row, each.position + 1)
    return rows.to(x.device, non_blocking=True)


class Restorer(Protocol):
    """An iterative restorer. It keeps no state of a frame; that is in the trajectory.

    ``ignores`` are the fields of a bundle's manifest that make no difference to its results, for
    whoever keeps results: see :meth:`shared.bundle.Manifest.without`.
    """

    name: str
    summary: str
    default_steps: int
    max_steps: int
    ignores: frozenset[FieldPath]

    def start(self, y: Tensor, snr_db: float, steps: int, noise: DiffusionNoise) -> Trajectory:
        """The state before the first step of restoring ``y``, (3, H, W) in [0, 1]."""

    def batch_key(self, trajectory: Trajectory) -> Hashable:
        """Trajectories with equal keys may share a batch."""

    def step(self, batch: Sequence[Trajectory]) -> None:
        """Takes every trajectory of the batch one step further, in place.

        If it raises, no trajectory has changed: each may be stepped again on its own.
        """


def to_unit(x: Tensor) -> Tensor:
    """[-1, 1] to [0, 1], clamped."""
    return ((x + 1) / 2).clamp(0, 1)


def from_unit(y: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return 2 * y - 1
