r"""What keeps an INN's inverse usable inside a sampler: a loss on the estimates diffusion makes.

Eq. (9) sees photographs only. A sampler hands the INN :math:`x_{0,t}`, which are blurred, noisy or
wrong, and an inverse that was never asked about them leaves the images altogether.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from receiver.diffusion import TRAINING_STEPS, Step
from receiver.inn import INN
from receiver.prior import Prior
from receiver.restorers.base import from_unit
from shared.perceptual import load_lpips
from training.config import GuidedLoss

EARLIEST = 5  # time t; below, x_{0,t} is x_t itself and there is nothing to learn


class GuidedInverse(nn.Module):
    r"""The error of :math:`\hat x_{0,t} = \mathrm{INN}^{-1}(y, d(x_{0,t}))`, Algorithm 1, line 7.

    .. math:: \|\hat x_{0,t} - x\|_2^2 + w_p \, \mathrm{LPIPS}(\hat x_{0,t}, x)

    One part of a batch stands at states of an unguided diffusion, noised from the original at any
    time t, as Algorithm 1 meets them. The rest follows the fast sampler's way for two steps: the
    noised y at about the start time, and what a DDIM step from there leads to. Minimising the
    first term makes :math:`\hat x_{0,t}` an estimate of :math:`\mathrm{E}[x | x_t, y]`.

    Arguments:
        settings: Weights and the start time.
        prior: Makes the estimates; it is not trained.
    """

    def __init__(self, settings: GuidedLoss, prior: Prior) -> None:
        super().__init__()
        self.settings = settings
        # In lists, so that they are no submodules: neither trained, averaged nor saved.
        self._prior = [prior]
        self._lpips = [load_lpips()] if settings.perceptual_weight else []

    def forward(
        self, inn: INN, x: Tensor, y: Tensor, snr_db: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The loss of originals ``x`` and decoded ``y``, (B, 3, H, W) in [0, 1], sent at (B,)."""
        x, y = from_unit(x), from_unit(y)
        follow = round(self.settings.follow * len(x))
        t = self._times(len(x), follow, generator)
        noise = torch.randn(x.shape, generator=generator).to(x.device)
        step = _step_to(t, torch.zeros_like(t), x.device)
        state = step.add_noise(torch.cat([y[:follow], x[follow:]]), noise)
        guided = self._guide(inn, state, t, step, y, snr_db)
        loss = self._error(guided, x)
        if follow:
            state, t = _ddim(state[:follow], guided[:follow], t[:follow], generator)
            step = _step_to(t, torch.zeros_like(t), x.device)
            guided = self._guide(inn, state, t, step, y[:follow], snr_db[:follow])
            loss = loss + self._error(guided, x[:follow]) / 2
        return loss

    def _times(self, count: int, follow: int, generator: torch.Generator) -> Tensor:
        start, spread = self.settings.start, self.settings.start // 8
        near = torch.randint(start - spread, start + spread + 1, (follow,), generator=generator)
        anywhere = torch.randint(1, TRAINING_STEPS + 1, (count - follow,), generator=generator)
        return torch.cat([near, anywhere])

    def _guide(
        self, inn: INN, state: Tensor, t: Tensor, step: Step, y: Tensor, snr_db: Tensor
    ) -> Tensor:
        """Lines 4, 6 and 7 of Algorithm 1."""
        with torch.no_grad():
            epsilon = self._prior[0](state, t.to(state.device)).float()
            x0 = step.predict_x0(state, epsilon).clamp(-1, 1)
        _, detail = inn(x0, snr_db)
        return inn.inverse(inn.coarse(y), detail, snr_db).float()

    def _error(self, guided: Tensor, x: Tensor) -> Tensor:
        error = (guided - x).square().mean()
        if not self._lpips:
            return error
        metric = self._lpips[0].to(x.device)
        with torch.autocast(x.device.type, enabled=False):
            distance: Tensor = metric(guided.clamp(-1, 1), x).mean()
        return error + self.settings.perceptual_weight * distance


def _step_to(t: Tensor, s: Tensor, device: torch.device) -> Step:
    return Step.between(t.tolist(), s.tolist(), device)


def _ddim(
    state: Tensor, guided: Tensor, t: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A deterministic step from times ``t`` to earlier ones drawn evenly; the state there."""
    part = torch.rand(t.shape, generator=generator)
    earlier = (EARLIEST + part * (t - EARLIEST).clamp(min=0)).long()
    step = _step_to(t, earlier, state.device)
    return step.ddim(state, guided.detach().clamp(-1, 1)), earlier
