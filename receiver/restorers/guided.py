"""The DDPM step that the gradient of a residual guides, as Algorithm 1 and DPS both have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from receiver.diffusion import Step
from receiver.prior import Prior
from receiver.restorers.base import Trajectory, draw_batch


def guided_step(
    batch: Sequence[Trajectory],
    prior: Prior,
    bound: Callable[[Tensor], Tensor],
    residual: Callable[[Tensor], Tensor],
    zeta: Tensor,
    bounded: bool = False,
    variance: float = 0.0,
) -> None:
    r"""One step of eqs. (10)-(11), less :math:`\zeta \nabla_{x_t} r(x_{0,t})`, in place.

    Arguments:
        batch: The images.
        prior: Predicts the noise.
        bound: Keeps :math:`x_{0,t}`, (B, 3, H, W), within the range of images, or not.
        residual: r, one number for each image, (B,), of :math:`x_{0,t}`.
        zeta: Step size of each image, (B,).
        bounded: Never go further than to where r would vanish to first order,
            :math:`\zeta \le r / \|\nabla r\|_2^2` (Polyak, 1969): a longer step overshoots.
        variance: Of the noise; see :meth:`receiver.diffusion.Step.noise_scale`.
    """
    x = torch.stack([each.x for each in batch])
    noise = draw_batch(batch)
    t = [each.time for each in batch]
    step = Step.between(t, [each.next_time for each in batch], x.device)

    with torch.enable_grad():
        x.requires_grad_()
        epsilon = prior(x, torch.tensor(t, device=x.device))
        x0 = bound(step.predict_x0(x, epsilon))
        distance = residual(x0)
        (gradient,) = torch.autograd.grad(distance.sum(), x)
    x, x0, distance = x.detach(), x0.detach(), distance.detach()
    if bounded:
        slope = gradient.square().sum((1, 2, 3)).clamp(min=torch.finfo(x.dtype).tiny)
        zeta = torch.minimum(zeta, distance / slope)
    x = step.posterior_mean(x, x0) + step.noise_scale(variance) * noise
    x = x - zeta[:, None, None, None] * gradient

    for each, state, estimate in zip(batch, x, x0, strict=True):
        each.x, each.x0 = state, estimate
        each.position += 1
        if each.done:  # what is returned is x_0, the last state, not the last x_{0,t}
            each.x0 = state
