"""Algorithm 1 against a plain transcription of the paper, on toy networks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from receiver.diffusion import Step
from receiver.models import ReceiverModels
from receiver.restorers.base import Trajectory
from receiver.restorers.commin import CommIN
from shared.architecture import INNArchitecture
from shared.bundle import Guidance
from shared.draws import DiffusionNoise
from tests.tiny import GUIDANCE, SIZE, make_inn, make_models

ZETA = 0.3


def models_with(norm: str) -> ReceiverModels:
    sizes = INNArchitecture(levels=2, lifts=2, width=8, snr_conditioned=True)
    guidance = Guidance(norm=norm, clip=False, zeta_by_snr_db={0.0: ZETA})  # type: ignore[arg-type]
    return make_models(16, make_inn(sizes), guidance)


def paper(models: ReceiverModels, y: Tensor, noise: DiffusionNoise, norm: str) -> Tensor:
    """Algorithm 1 line by line with T = 1000, scalar arithmetic for the schedule in float64."""
    beta = np.linspace(1e-4, 0.02, 1000)
    bar = np.concatenate([[1.0], np.cumprod(1 - beta)])
    inn, prior = models.inns[None], models.prior
    assert prior
    snr_db = torch.zeros(1)
    coarse = torch.nn.functional.avg_pool2d(2 * y - 1, 4)[None]
    x = torch.from_numpy(noise.draw(0, (3, 16, 16)))[None]
    for step, t in enumerate(range(1000, 995, -1), 1):
        z = torch.from_numpy(noise.draw(step, (3, 16, 16)))
        x.requires_grad_()
        x0 = (x - math.sqrt(1 - bar[t]) * prior(x, torch.tensor([t]))) / math.sqrt(bar[t])
        mean = (
            math.sqrt(bar[t] / bar[t - 1]) * (1 - bar[t - 1]) / (1 - bar[t]) * x
            + math.sqrt(bar[t - 1]) * beta[t - 1] / (1 - bar[t]) * x0
        )
        sigma = math.sqrt(beta[t - 1] * (1 - bar[t - 1]) / (1 - bar[t]))
        _, d = inn(x0, snr_db)
        loss = (inn.inverse(coarse, d, snr_db) - x0).square().sum()
        loss = loss if norm == "squared" else loss.sqrt()
        (gradient,) = torch.autograd.grad(loss, x)
        x = (mean + sigma * z - ZETA * gradient).detach()
    return x[0]


@pytest.mark.parametrize("norm", ["squared", "unsquared"])
def test_steps_are_the_papers(norm: str) -> None:
    models = models_with(norm)
    assert models.prior
    assert models.guidance
    restorer = CommIN(models, models.prior, models.guidance)
    y = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    noise = DiffusionNoise(seed=5, frame_id=6)
    trajectory = restorer.start(y, 0.0, 1000, noise)
    for _ in range(5):
        restorer.step([trajectory])
    expected = paper(models, y, noise, norm)
    error = (trajectory.x - expected).abs().max() / expected.abs().max()
    assert error < 1e-3  # float32 rounding of 1 - alpha_bar, over five steps


def test_the_last_step_adds_no_noise_and_ends_at_x_0() -> None:
    models = models_with("unsquared")
    assert models.prior
    assert models.guidance
    restorer = CommIN(models, models.prior, models.guidance)
    y = torch.rand(3, 16, 16)
    noise = DiffusionNoise(0, 0)
    trajectory = restorer.start(y, 0.0, 3, noise)
    while not trajectory.done:
        restorer.step([trajectory])
    assert trajectory.position == 3
    assert torch.equal(trajectory.x, trajectory.x0)


def test_a_respaced_schedule_takes_longer_steps() -> None:
    models = models_with("unsquared")
    assert models.prior
    assert models.guidance
    restorer = CommIN(models, models.prior, models.guidance)
    y, noise = torch.rand(3, 16, 16), DiffusionNoise(0, 0)
    zetas = [restorer.zeta(restorer.start(y, 0.0, steps, noise)) for steps in (1000, 250, 10)]
    assert zetas == pytest.approx([ZETA, 2 * ZETA, 10 * ZETA])


def stepped(
    guidance: Guidance, y: Tensor, noise: DiffusionNoise, times: list[int]
) -> tuple[CommIN, Trajectory]:
    """One step from the first of two times to the second, with this guidance."""
    models = replace(models_with("unsquared"), guidance=guidance)
    assert models.prior
    restorer = CommIN(models, models.prior, guidance)
    trajectory = restorer.start(y, 0.0, 2, noise)
    trajectory.times = times
    restorer.step([trajectory])
    return restorer, trajectory


def test_the_bundle_chooses_the_variance_of_the_noise() -> None:
    y, noise = torch.rand(3, 16, 16), DiffusionNoise(0, 0)

    def at(variance: float) -> Tensor:
        guidance = Guidance(variance=variance, zeta_by_snr_db={0.0: ZETA})
        return stepped(guidance, y, noise, [40, 26])[1].x

    step = Step.between([40], [26], y.device)
    wider = step.noise_scale(1.0) - step.noise_scale(0.0)
    more = wider[0] * torch.from_numpy(noise.draw(1, (3, 16, 16)))
    torch.testing.assert_close(at(1.0) - at(0.0), more, atol=1e-5, rtol=0)


def test_a_bounded_step_ends_where_the_residual_would_vanish() -> None:
    y, noise = torch.rand(3, 16, 16), DiffusionNoise(0, 0)

    def at(zeta: float, bounded: bool) -> tuple[CommIN, Trajectory]:
        guidance = Guidance(clip=False, bounded=bounded, zeta_by_snr_db={0.0: zeta})
        return stepped(guidance, y, noise, [300, 299])

    scale = math.sqrt(1000 / 2)  # of zeta, for two steps
    (restorer, short), (_, twice) = at(1 / scale, False), at(2 / scale, False)
    gradient = short.x - twice.x
    residual = restorer.residual(
        restorer.models.inn_for(0.0), short.x0[None], short.guide[None], torch.zeros(1)
    )
    polyak = float(residual) / float(gradient.square().sum())
    _, bounded = at(1e6, True)
    torch.testing.assert_close(
        bounded.x, short.x + gradient - polyak * gradient, rtol=1e-3, atol=1e-3
    )
    _, unaffected = at(1e-3 / scale, True)
    _, free = at(1e-3 / scale, False)
    assert polyak > 1e-3
    torch.testing.assert_close(unaffected.x, free.x)


def test_bounded_steps_do_not_amplify_round_off() -> None:
    """Else no image could be compared with that of another batch, here or through a link."""
    plain = make_models(inn=make_inn(std=0), guidance=GUIDANCE)
    lifted = make_models(guidance=GUIDANCE)
    y = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    for models in (plain, lifted):
        assert models.prior
        restorer = CommIN(models, models.prior, GUIDANCE)
        exact, moved = (restorer.start(y, 0.0, 30, DiffusionNoise(4, 0)) for _ in range(2))
        moved.x = moved.x + 1e-4 * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        while not exact.done:
            restorer.step([exact, moved])
        assert (exact.x0 - moved.x0).abs().max() < 1e-3
