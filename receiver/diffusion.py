r"""The DDPM schedule and the two equations of an unconditional reverse step, eqs. (10)-(11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TRAINING_STEPS = 1000
BETA_START, BETA_END = 1e-4, 0.02


def alpha_bar() -> Tensor:
    r""":math:`\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)` for the linear schedule.

    Returns:
        Shape (1001,), indexed by t = 0 … 1000; :math:`\bar\alpha_0 = 1`. In float32, whose
        rounding the published priors and diffusers' schedulers share.

    Source: Ho et al., "Denoising diffusion probabilistic models", NeurIPS 2020.
    """
    beta = torch.linspace(BETA_START, BETA_END, TRAINING_STEPS)
    return torch.cat([torch.ones(1), (1 - beta).cumprod(0)])


_ALPHA_BAR = alpha_bar()


def timesteps(steps: int, start: int = TRAINING_STEPS) -> list[int]:
    """Uniformly respaced times, falling from ``start`` to 1; a step goes from each to the next.

    Arguments:
        steps: 1 to ``start``.
        start: The noisiest time, 1 to 1000.

    Source: Nichol and Dhariwal, "Improved denoising diffusion probabilistic models", ICML 2021.
    """
    if not 1 <= steps <= start <= TRAINING_STEPS:
        raise ValueError(f"steps {steps} must be 1 to {start}, and that at most {TRAINING_STEPS}")
    if steps == 1:
        return [start]
    return [round(1 + (start - 1) * (steps - 1 - i) / (steps - 1)) for i in range(steps)]


def quadratic_timesteps(steps: int) -> list[int]:
    r"""Times :math:`T (j / n)^2` for j = n, ..., 1, no two alike: closer where less noise is left.

    With n = T they are all times, as with :func:`timesteps`.

    Arguments:
        steps: n, 1 to 1000.

    Source: Song et al., "Denoising diffusion implicit models", ICLR 2021, appendix D.2.
    """
    if not 1 <= steps <= TRAINING_STEPS:
        raise ValueError(f"steps {steps} must be 1 to {TRAINING_STEPS}")
    return [max(j, round(TRAINING_STEPS * (j / steps) ** 2)) for j in range(steps, 0, -1)]


@dataclass(frozen=True)
class Step:
    r"""One reverse step from time t to an earlier time s, for each image of a batch.

    On the full schedule s = t - 1 and :math:`\beta_t` is the schedule's; on a respaced one
    :math:`1 - \beta = \bar\alpha_t / \bar\alpha_s`. All fields have shape (B, 1, 1, 1).
    """

    alpha_bar: Tensor
    alpha_bar_next: Tensor

    @classmethod
    def between(cls, t: Sequence[int], s: Sequence[int], device: torch.device) -> Step:
        """The step of a batch whose images, on ``device``, go from times ``t`` to times ``s``."""
        at, to = (_ALPHA_BAR[list(times)].to(device)[:, None, None, None] for times in (t, s))
        return cls(at, to)

    @property
    def beta(self) -> Tensor:
        r""":math:`\beta_t`, the variance added between s and t."""
        return 1 - self.alpha_bar / self.alpha_bar_next

    @property
    def sigma(self) -> Tensor:
        r""":math:`\sigma_t` of eq. (11), :math:`\sigma_t^2 = \beta_t (1 - \bar\alpha_{t-1}) /
        (1 - \bar\alpha_t)`; 0 in the last step."""
        return (self.beta * (1 - self.alpha_bar_next) / (1 - self.alpha_bar)).sqrt()

    def noise_scale(self, variance: float = 0.0) -> Tensor:
        r""":math:`\sigma_t` between the two choices that DDPM has for it; 0 in the last step.

        .. math:: \sigma_t^2 = \tilde\beta_t^{1 - v} \beta_t^v, \quad
            \tilde\beta_t = \beta_t (1 - \bar\alpha_{t-1}) / (1 - \bar\alpha_t)

        Arguments:
            variance: v, 0 to 1. 0 is :attr:`sigma`, diffusers' ``fixed_small``; 1 is its
                ``fixed_large``. Steps of the full schedule hardly differ by it, long ones do.

        Source: Ho et al., 2020, section 3.2; Nichol and Dhariwal, 2021, eq. (15).
        """
        earliest = torch.finfo(self.alpha_bar.dtype).tiny  # where s = 0, and sigma is 0
        ratio = (1 - self.alpha_bar) / (1 - self.alpha_bar_next).clamp(min=earliest)
        return self.sigma * ratio ** (variance / 2)

    def predict_x0(self, x: Tensor, epsilon: Tensor) -> Tensor:
        r"""Eq. (10): :math:`x_{0,t} = (x_t - \sqrt{1 - \bar\alpha_t}\, \epsilon) /
        \sqrt{\bar\alpha_t}`."""
        return (x - (1 - self.alpha_bar).sqrt() * epsilon) / self.alpha_bar.sqrt()

    def posterior_mean(self, x: Tensor, x0: Tensor) -> Tensor:
        r"""The mean of eq. (11), that of :math:`q(x_{t-1} | x_t, x_{0,t})`."""
        noise = 1 - self.alpha_bar
        alpha = self.alpha_bar / self.alpha_bar_next
        from_x = alpha.sqrt() * (1 - self.alpha_bar_next) / noise
        from_x0 = self.alpha_bar_next.sqrt() * self.beta / noise
        return from_x * x + from_x0 * x0

    def ddim(
        self, x: Tensor, x0: Tensor, noise: Tensor | None = None, eta: float | Tensor = 0.0
    ) -> Tensor:
        r"""The state at s of a DDIM step from ``x`` at t with the estimate ``x0``.

        .. math:: \sqrt{\bar\alpha_s}\, x_{0,t} + \sqrt{1 - \bar\alpha_s - \eta^2 \sigma_t^2}\,
            \epsilon + \eta \sigma_t z, \quad
            \epsilon = (x_t - \sqrt{\bar\alpha_t}\, x_{0,t}) / \sqrt{1 - \bar\alpha_t}

        Arguments:
            x: :math:`x_t`.
            x0: :math:`x_{0,t}`, guided or not.
            noise: z; None where ``eta`` is 0.
            eta: 0 is deterministic; 1 has the variance of eq. (11).

        Source: Song et al., "Denoising diffusion implicit models", ICLR 2021, eq. (12).
        """
        epsilon = (x - self.alpha_bar.sqrt() * x0) / (1 - self.alpha_bar).sqrt()
        sigma = eta * self.sigma
        # Rounding may take the difference below zero in the last step, where it is zero.
        kept = (1 - self.alpha_bar_next - sigma**2).clamp(min=0).sqrt()
        state = self.alpha_bar_next.sqrt() * x0 + kept * epsilon
        return state if noise is None else state + sigma * noise

    def add_noise(self, x0: Tensor, noise: Tensor) -> Tensor:
        r"""A draw of :math:`q(x_t | x_0)`:
        :math:`\sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, z`."""
        return self.alpha_bar.sqrt() * x0 + (1 - self.alpha_bar).sqrt() * noise
