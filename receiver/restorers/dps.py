"""DPS: diffusion posterior sampling, the baseline that knows no INN."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from receiver.diffusion import TRAINING_STEPS, timesteps
from receiver.inn import coarse_part
from receiver.models import ReceiverModels
from receiver.prior import Prior
from receiver.restorers.base import Trajectory, draw_like, from_unit
from receiver.restorers.guided import guided_step
from shared.bundle import FieldPath, Guidance
from shared.draws import DiffusionNoise


class DPS:
    r"""DPS with the same prior as CommIN, on what the INN's plain split leaves of the link.

    The measurement operator A is the mean over blocks of :math:`2^L` pixels, L being the INN's
    levels, and the measurement the decoded image brought to that size in the same way. As in the
    paper's own code the step size is constant on the un-squared norm and :math:`\hat x_0` is
    clamped to [-1, 1], gradient included. Fewer steps than T = 1000 run on a uniformly respaced
    schedule; for n of them the step size grows by :math:`\sqrt{T / n}`, which is measured, not
    derived, as with CommIN: with it 25 steps come to about the LPIPS of 50.

    Source: Chung et al., "Diffusion posterior sampling for general noisy inverse problems", ICLR
    2023, Algorithm 1 and appendix C.
    """

    name = "dps"
    summary = "diffusion posterior sampling: the gradient of the coarse part's residual"
    default_steps = TRAINING_STEPS
    max_steps = TRAINING_STEPS
    # Of the INNs it knows how many levels they have, of the guidance its own step size.
    ignores: frozenset[FieldPath] = frozenset(
        {
            ("generator",),
            ("fast",),
            ("inns", "file"),
            *(
                ("inns", "architecture", size)
                for size in ("lifts", "width", "blocks", "patch_size")
            ),
            *(
                ("guidance", field)
                for field in ("norm", "clip", "bounded", "variance", "zeta_by_snr_db")
            ),
        }
    )

    def __init__(self, models: ReceiverModels, prior: Prior, guidance: Guidance) -> None:
        self.models = models
        self.prior = prior
        self.zeta = guidance.dps_zeta

    def start(self, y: Tensor, snr_db: float, steps: int, noise: DiffusionNoise) -> Trajectory:
        """Line 1: :math:`x_N` is pure noise; the guide is the measurement."""
        levels = len(self.models.inn_for(snr_db).levels)
        return Trajectory(
            x=draw_like(y, noise),
            x0=from_unit(y),
            guide=coarse_part(from_unit(y)[None], levels)[0],
            snr_db=snr_db,
            times=timesteps(steps),
            noise=noise,
        )

    def batch_key(self, trajectory: Trajectory) -> Hashable:
        """Images measured at the same size go together."""
        return trajectory.guide.shape

    def step(self, batch: Sequence[Trajectory]) -> None:
        """Lines 3-7 for each image; see :func:`guided_step` for all but the residual."""
        measured = torch.stack([each.guide for each in batch])
        levels = (batch[0].x.shape[-1] // measured.shape[-1]).bit_length() - 1

        def residual(x0: Tensor) -> Tensor:
            r"""Line 7: :math:`\|y - A(\hat x_0)\|_2`."""
            difference = measured - coarse_part(x0, levels)
            norm: Tensor = torch.linalg.vector_norm(difference, dim=(1, 2, 3))
            return norm

        spans = measured.new_tensor([each.times[0] / each.steps for each in batch])
        zeta = self.zeta * spans.sqrt()
        guided_step(batch, self.prior, lambda x0: x0.clamp(-1, 1), residual, zeta)
