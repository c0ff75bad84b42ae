r"""What keeps an INN's inverse usable inside a sampler: a loss on the estimates diffusion makes.

Eq. (9) sees photographs only. A sampler hands the INN :math:`x_{0,t}`, which are blurred, noisy or
wrong, and an inverse that was never asked about them leaves the images altogether.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from receiver.diffusion import TRAINING_STEPS, Step
from receiver.inn import INN
from receiver.prior import Prior
from receiver.restorers.base import from_unit
from shared.perceptual import load_lpips
from training.config import GuidedLoss

LPIPS_STRIDE = 4  # of AlexNet's first convolution, pixels


class GuidedInverse(nn.Module):
    r"""The error of :math:`\hat x_{0,t} = \mathrm{INN}^{-1}(y, d(x_{0,t}))`, Algorithm 1, line 7.

    .. math:: \|\hat x_{0,t} - x\|_2^2 + w_p \, \mathrm{LPIPS}(\hat x_{0,t}, x)

    taken twice of every image, as a sampler meets it: at y noised to a time up to that which the
    fast sampler starts from, and at what came of that noised to any time, as every later step of
    the fast sampler and of Algorithm 1 has it. Without the second, an INN sharpens what it has
    sharpened before. Minimising the first term makes :math:`\hat x_{0,t}` an estimate of
    :math:`\mathrm{E}[x | x_t, y]`.

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
        early = torch.rand(len(x), generator=generator) * self.settings.start
        first = self._guided(inn, y, y, early, snr_db, generator)
        again = first.detach().clamp(-1, 1)
        late = torch.rand(len(x), generator=generator) ** self.settings.power * TRAINING_STEPS
        second = self._guided(inn, again, y, late, snr_db, generator)
        error = (torch.stack([first, second]) - x).square().mean()
        if not self._lpips:
            return error
        distance = self._distance(torch.cat([first, second]), x.repeat(2, 1, 1, 1), generator)
        return error + self.settings.perceptual_weight * distance

    def _guided(
        self,
        inn: INN,
        image: Tensor,
        y: Tensor,
        time: Tensor,
        snr_db: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        r""":math:`\hat x_{0,t}` at ``image`` noised to the whole times after ``time``, (B,)."""
        t = 1 + time.long()
        step = Step.between(t.tolist(), [0] * len(t), image.device)
        noise = torch.randn(image.shape, generator=generator).to(image.device)
        state = step.add_noise(image, noise)
        with torch.no_grad():
            epsilon = self._prior[0](state, t.to(image.device)).float()
            x0 = step.predict_x0(state, epsilon).clamp(-1, 1)
        return inn.replace_coarse(x0, inn.coarse(y), snr_db).float()

    def _distance(self, guided: Tensor, x: Tensor, generator: torch.Generator) -> Tensor:
        """LPIPS at a random phase of AlexNet's grid.

        Its first layer sees every fourth pixel. At one fixed phase, it can be pleased by a pattern
        of that period, which is plain to the eye.
        """
        right, down = torch.randint(LPIPS_STRIDE, (2,), generator=generator).tolist()
        shifted = (
            F.pad(image, (right, 0, down, 0), mode="reflect") for image in (guided.clamp(-1, 1), x)
        )
        with torch.autocast(x.device.type, enabled=False):
            distance: Tensor = self._lpips[0].to(x.device)(*shifted).mean()
        return distance
