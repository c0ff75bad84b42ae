"""CommIN: DDPM sampling guided by an INN, the paper's Algorithm 1."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from receiver.diffusion import TRAINING_STEPS, Step, timesteps
from receiver.inn import INN
from receiver.models import ReceiverModels
from receiver.prior import Prior
from receiver.restorers.base import Trajectory, draw_like, from_unit
from shared.bundle import Guidance
from shared.draws import DiffusionNoise


class CommIN:
    r"""Algorithm 1, literally; with fewer steps than T = 1000, on a uniformly respaced schedule.

    One addition, which the bundle can switch off: :math:`x_{0,t}` is clamped to [-1, 1]. Early
    estimates exceed that range by far, and an INN that was trained within it amplifies them.

    Source: Chen et al., "CommIN", 2023, Algorithm 1.
    """

    name = "commin"
    summary = "Algorithm 1: DDPM sampling with the gradient of the INN residual"
    default_steps = 50
    max_steps = TRAINING_STEPS

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
            times=timesteps(steps),
            noise=noise,
        )

    def batch_key(self, trajectory: Trajectory) -> Hashable:
        """Images guided by the same INN go together."""
        return id(self.models.inn_for(trajectory.snr_db))

    def step(self, batch: Sequence[Trajectory]) -> None:
        """Lines 3-8 for each image."""
        x = torch.stack([each.x for each in batch])
        coarse = torch.stack([each.guide for each in batch])
        noise = torch.stack([each.draw() for each in batch])
        snr_db = x.new_tensor([each.snr_db for each in batch])
        zeta = x.new_tensor([self.guidance.zeta(each.snr_db) for each in batch])
        t = [each.time for each in batch]
        step = Step.between(t, [each.next_time for each in batch], x.device)

        with torch.enable_grad():
            x.requires_grad_()
            epsilon = self.prior(x, torch.tensor(t, device=x.device))
            x0 = step.predict_x0(x, epsilon)
            if self.guidance.clip:
                # The value is clamped, the gradient is not: saturated pixels need guidance most.
                x0 = x0 + (x0.clamp(-1, 1) - x0).detach()
            inn = self.models.inn_for(batch[0].snr_db)
            residual = self.residual(inn, x0, coarse, snr_db)
            (gradient,) = torch.autograd.grad(residual.sum(), x)
        x, x0 = x.detach(), x0.detach()
        x = step.posterior_mean(x, x0) + step.sigma * noise - zeta[:, None, None, None] * gradient

        for each, state, estimate in zip(batch, x, x0, strict=True):
            each.x, each.x0 = state, estimate
            each.position += 1
            if each.done:  # line 10 returns x_0, the last state, not the last x_{0,t}
                each.x0 = state

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
        _, detail = inn(x0, snr_db)
        guided = inn.inverse(coarse, detail, snr_db)
        squared = (guided - x0).square().sum((1, 2, 3))
        return squared if self.guidance.norm == "squared" else squared.sqrt()
