"""Restoration at serving speed: INN guidance with neither gradients nor most of the steps."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from receiver.diffusion import Step, timesteps
from receiver.models import ReceiverModels
from receiver.prior import Prior
from receiver.restorers.base import Trajectory, draw_batch, draw_like, from_unit
from shared.bundle import FastSampling, FieldPath
from shared.draws import DiffusionNoise


class CommINFast:
    r"""DDIM steps from the noised DeepJSCC image, the INN's estimate in the prior's place.

    Lines 4, 6 and 7 of Algorithm 1 stand; what follows them is not a gradient step but

    .. math:: x_s = \mathrm{DDIM}_\eta(x_t, \lambda \hat x_{0,t} + (1 - \lambda) x_{0,t})

    so nothing is differentiated, and noise of time :math:`t_0 < T` covers only what the link lost.

    Arguments:
        models: The INNs.
        prior: Predicts the noise.
        name: Name of the preset.
        sampling: Its steps and, by SNR, :math:`t_0`, :math:`\lambda` and :math:`\eta`.

    Source: Chen et al., "CommIN", 2023, Algorithm 1; Song et al., "Denoising diffusion implicit
    models", ICLR 2021; Meng et al., "SDEdit", ICLR 2022, for the start.
    """

    def __init__(
        self, models: ReceiverModels, prior: Prior, name: str, sampling: FastSampling
    ) -> None:
        self.models = models
        self.prior = prior
        self.name = name
        self.sampling = sampling
        self.summary = f"INN guidance without gradients, {sampling.steps} DDIM steps by default"
        self.default_steps = sampling.steps
        others = {("fast", preset) for preset in models.fast if preset != name}
        self.ignores: frozenset[FieldPath] = frozenset({("generator",), ("guidance",)} | others)
        self.max_steps = min(point.start for point in sampling.by_snr_db.values())

    def start(self, y: Tensor, snr_db: float, steps: int, noise: DiffusionNoise) -> Trajectory:
        r"""The decoded image, noised to time :math:`t_0`."""
        point = self.sampling.at(snr_db)
        y = from_unit(y)
        step = Step.between([point.start], [0], y.device)
        return Trajectory(
            x=step.add_noise(y, draw_like(y, noise))[0],
            x0=y,
            guide=self.models.inn_for(snr_db).coarse(y[None])[0],
            snr_db=snr_db,
            times=timesteps(steps, point.start),
            noise=noise,
        )

    def batch_key(self, trajectory: Trajectory) -> Hashable:
        """Images guided by the same INN go together; whether a step is noisy is part of it."""
        noisy = self.sampling.at(trajectory.snr_db).eta > 0
        return id(self.models.inn_for(trajectory.snr_db)), noisy

    @torch.inference_mode()
    def step(self, batch: Sequence[Trajectory]) -> None:
        """One guided DDIM step of each image."""
        x = torch.stack([each.x for each in batch])
        coarse = torch.stack([each.guide for each in batch])
        points = [self.sampling.at(each.snr_db) for each in batch]
        snr_db = x.new_tensor([each.snr_db for each in batch])
        blend = x.new_tensor([point.blend for point in points])[:, None, None, None]
        eta = x.new_tensor([point.eta for point in points])[:, None, None, None]
        t = [each.time for each in batch]
        step = Step.between(t, [each.next_time for each in batch], x.device)

        epsilon = self.prior(x, torch.tensor(t, device=x.device))
        x0 = step.predict_x0(x, epsilon).clamp(-1, 1)
        inn = self.models.inn_for(batch[0].snr_db)
        x0 = torch.lerp(x0, inn.replace_coarse(x0, coarse, snr_db), blend).clamp(-1, 1)
        noise = draw_batch(batch) if points[0].eta else None
        x = step.ddim(x, x0, noise, eta)

        for each, state, estimate in zip(batch, x, x0, strict=True):
            each.x, each.x0 = state, estimate
            each.position += 1
