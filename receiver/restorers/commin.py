"""CommIN: DDPM sampling guided by an INN, the paper's Algorithm 1."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from receiver.diffusion import TRAINING_STEPS, quadratic_timesteps
from receiver.inn import INN
from receiver.models import ReceiverModels
from receiver.prior import Prior
from receiver.restorers.base import Trajectory, draw_like, from_unit
from receiver.restorers.guided import guided_step
from shared.bundle import FieldPath, Guidance
from shared.draws import DiffusionNoise


class CommIN:
    r"""Algorithm 1, literally.

    With n steps, fewer than T = 1000, times are spaced quadratically, and :math:`\zeta` grows by
    :math:`\sqrt{T / n}`, which is measured, not derived: with it different n come to about the same
    LPIPS (models/faces64/README.md).

    The paper leaves :math:`\sigma_t` open; the bundle chooses it between DDPM's two.

    One addition, which the bundle can switch off: :math:`x_{0,t}` is clamped to [-1, 1]. Early
    estimates exceed that range by far, and an INN that was trained within it amplifies them.

    Source: Chen et al., "CommIN", 2023, Algorithm 1.
    """

    name = "commin"
    summary = "Algorithm 1: DDPM sampling with the gradient of the INN residual"
    default_steps = 25
    max_steps = TRAINING_STEPS
    ignores: frozenset[FieldPath] = frozenset({("generator",), ("fast",), ("guidance", "dps_zeta")})

    def __init__(self, models: ReceiverModels, prior: Prior, guidance: Guidance) -> None:
        self.models = models
        self.prior = prior
        self.guidance = guidance

    def start(self, y: Tensor, snr_db: float, steps: int, noise: DiffusionNoise) -> Trajectory:
        """Line 1: :math:`x_T` is pure noise."""
        inn = self.models.inn_for(snr_db)
        return Trajectory(
            x=draw_like(y, noise),
            x0=from_unit(y),
            guide=inn.coarse(from_unit(y)[None])[0],
            snr_db=snr_db,
            times=quadratic_timesteps(steps),
            noise=noise,
        )

    def batch_key(self, trajectory: Trajectory) -> Hashable:
        """Images guided by the same INN go together."""
        return id(self.models.inn_for(trajectory.snr_db))

    def step(self, batch: Sequence[Trajectory]) -> None:
        """Lines 3-8 for each image; see :func:`guided_step` for 3-5 and 8."""
        coarse = torch.stack([each.guide for each in batch])
        snr_db = coarse.new_tensor([each.snr_db for each in batch])
        zeta = coarse.new_tensor([self.zeta(each) for each in batch])
        inn = self.models.inn_for(batch[0].snr_db)

        def residual(x0: Tensor) -> Tensor:
            return self.residual(inn, x0, coarse, snr_db)

        bounded, variance = self.guidance.bounded, self.guidance.variance
        guided_step(batch, self.prior, self.bound, residual, zeta, bounded, variance)

    def zeta(self, trajectory: Trajectory) -> float:
        r"""Step size :math:`\zeta` at the trajectory's SNR and number of steps."""
        respacing = math.sqrt(TRAINING_STEPS / trajectory.steps)
        return self.guidance.zeta(trajectory.snr_db) * respacing

    def bound(self, x0: Tensor) -> Tensor:
        """Clamps :math:`x_{0,t}` if the bundle says so."""
        if not self.guidance.clip:
            return x0
        # The value is clamped, the gradient is not: saturated pixels need guidance most.
        return x0 + (x0.clamp(-1, 1) - x0).detach()

    def residual(self, inn: INN, x0: Tensor, coarse: Tensor, snr_db: Tensor) -> Tensor:
        r"""Lines 6-8: :math:`\|\hat x_{0,t} - x_{0,t}\|`, squared or not as the bundle says.

        Arguments:
            inn: The network that imitates the link.
            x0: :math:`x_{0,t}`, (B, 3, H, W).
            coarse: y at c's size, which takes c's place.
            snr_db: (B,).

        Returns:
            One number for each image, (B,).
        """
        guided = inn.replace_coarse(x0, coarse, snr_db)
        squared = (guided - x0).square().sum((1, 2, 3))
        return squared if self.guidance.norm == "squared" else squared.sqrt()
