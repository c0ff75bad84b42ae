"""DPS against a plain transcription of its paper and of the choices of its authors' code."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from receiver.models import ReceiverModels
from receiver.prior import Prior
from receiver.restorers import restorers_for
from receiver.restorers.base import Trajectory, from_unit
from receiver.restorers.dps import DPS
from shared.architecture import INNArchitecture
from shared.bundle import Guidance
from shared.draws import DiffusionNoise
from tests.tiny import make_inn, make_models

ZETA = 0.7
START = 300  # earlier, almost every pixel of the estimate is out of range and nothing is guided


@pytest.fixture(scope="module")
def models() -> ReceiverModels:
    inn = make_inn(INNArchitecture(levels=2, lifts=1, width=8), std=10)  # DPS must not feel it
    models = make_models(16, inn, Guidance(zeta_by_snr_db={0.0: 1e9}, dps_zeta=ZETA))
    return replace(models, inns={0.0: inn, 5.0: inn})


def restorer_of(models: ReceiverModels, zeta: float = ZETA) -> DPS:
    assert models.prior
    return DPS(models, models.prior, Guidance(zeta_by_snr_db={0.0: 1e9}, dps_zeta=zeta))


def decoded(frame: int) -> Tensor:
    return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(frame))


def under_way(restorer: DPS, frame: int, snr_db: float = 0.0, start: int = START) -> Trajectory:
    trajectory = restorer.start(decoded(frame), snr_db, 1000, DiffusionNoise(5, frame))
    trajectory.times = list(range(start, 0, -1))
    return trajectory


def paper(prior: Prior, y: Tensor, noise: DiffusionNoise, steps: int) -> Tensor:
    """Algorithm 1 (Gaussian) from time START, the schedule in float64 scalars."""
    beta = np.linspace(1e-4, 0.02, 1000)
    bar = np.concatenate([[1.0], np.cumprod(1 - beta)])
    measurement = F.avg_pool2d(2 * y - 1, 4)[None]
    x = torch.from_numpy(noise.draw(0, (3, 16, 16)))[None]
    for step, t in enumerate(range(START, START - steps, -1), 1):
        z = torch.from_numpy(noise.draw(step, (3, 16, 16)))
        x.requires_grad_()
        score = -prior(x, torch.tensor([t])) / math.sqrt(1 - bar[t])
        x0 = (x + (1 - bar[t]) * score) / math.sqrt(bar[t])
        x0 = x0.clamp(-1, 1)
        alpha = 1 - beta[t - 1]
        ancestral = (
            math.sqrt(alpha) * (1 - bar[t - 1]) / (1 - bar[t]) * x
            + math.sqrt(bar[t - 1]) * beta[t - 1] / (1 - bar[t]) * x0
            + math.sqrt(beta[t - 1] * (1 - bar[t - 1]) / (1 - bar[t])) * z
        )
        norm = (measurement - F.avg_pool2d(x0, 4)).square().sum().sqrt()
        (gradient,) = torch.autograd.grad(norm, x)
        x = (ancestral - ZETA * gradient).detach()
    return x[0]


def test_steps_are_the_papers(models: ReceiverModels) -> None:
    assert models.prior
    restorer = restorer_of(models)
    trajectory = under_way(restorer, 6)
    for _ in range(5):
        restorer.step([trajectory])
    expected = paper(models.prior, decoded(6), DiffusionNoise(5, 6), 5)
    torch.testing.assert_close(trajectory.x, expected, rtol=1e-4, atol=1e-4)
    unguided = restorer_of(models, zeta=1e-12)
    free = under_way(unguided, 6)
    for _ in range(5):
        unguided.step([free])
    assert (free.x - expected).abs().max() > 0.05  # so the comparison does feel the gradient


def test_fewer_steps_follow_the_gradient_further(models: ReceiverModels) -> None:
    """By the square root of the times that each spans; steps of one are the paper's."""

    def guided_by(span: int) -> Tensor:
        after = []
        for zeta in (ZETA, 1e-12):
            restorer = restorer_of(models, zeta)
            trajectory = under_way(restorer, 6)
            trajectory.times = list(range(START, 0, -span))
            restorer.step([trajectory])
            after.append(trajectory.x)
        return after[0] - after[1]

    paper = guided_by(1)
    assert paper.abs().max() > 0.01
    torch.testing.assert_close(guided_by(25), 5 * paper, rtol=1e-3, atol=1e-5)


def test_batch_mates_change_nothing(models: ReceiverModels) -> None:
    restorer = restorer_of(models)
    together = [
        under_way(restorer, frame, snr_db, start)
        for frame, snr_db, start in ((0, -5.0, 300), (1, 5.0, 40), (2, 0.0, 160))
    ]
    assert len({restorer.batch_key(each) for each in together}) == 1
    alone = [
        under_way(restorer, frame, snr_db, start)
        for frame, snr_db, start in ((0, -5.0, 300), (1, 5.0, 40), (2, 0.0, 160))
    ]
    for _ in range(4):
        restorer.step(together)
        for each in alone:
            restorer.step([each])
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.x, other.x, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.x0, other.x0, rtol=1e-5, atol=1e-5)


def test_guidance_brings_the_block_means_to_the_measurement(models: ReceiverModels) -> None:
    def misses(zeta: float) -> float:
        restorer = restorer_of(models, zeta)
        trajectory = under_way(restorer, 3, start=100)
        while not trajectory.done:
            restorer.step([trajectory])
        assert torch.equal(trajectory.x, trajectory.x0)
        difference = F.avg_pool2d(trajectory.x0 - from_unit(decoded(3)), 4)
        return float(difference.square().mean().sqrt())

    assert misses(ZETA) < 0.2 * misses(1e-12)


def test_it_is_offered_but_not_by_default(models: ReceiverModels) -> None:
    offered = restorers_for(models)
    assert list(offered) == ["none", "dps", "commin"]
    dps = offered["dps"]
    assert isinstance(dps, DPS)
    assert dps.zeta == ZETA
    assert dps.default_steps == 1000


def test_bundles_from_before_it_have_its_published_step_size() -> None:
    assert Guidance.model_validate({"zeta_by_snr_db": {0: 0.3}}).dps_zeta == 1.0
