"""The fast sampler against a plain transcription, and what its guidance promises."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from pydantic import ValidationError
from torch import Tensor

from receiver.diffusion import Step
from receiver.inn import split
from receiver.restorers import restorers_for
from receiver.restorers.base import Trajectory
from receiver.restorers.commin_fast import CommINFast
from shared.architecture import INNArchitecture
from shared.bundle import FastSampling, OperatingPoint
from shared.draws import DiffusionNoise
from tests.tiny import make_inn, make_models

SIZE = 16


def fast(point: OperatingPoint, steps: int = 4, trained: bool = True) -> CommINFast:
    sizes = INNArchitecture(levels=1, lifts=2, width=8, patch_size=2, snr_conditioned=True)
    presets = {"commin-fast": FastSampling(steps=steps, by_snr_db={0.0: point})}
    models = make_models(SIZE, make_inn(sizes, 0.05 if trained else 0), fast=presets)
    restorer = restorers_for(models)["commin-fast"]
    assert isinstance(restorer, CommINFast)
    return restorer


def run(restorer: CommINFast, *trajectories: Trajectory) -> list[Tensor]:
    while not trajectories[0].done:
        restorer.step(trajectories)
    return [each.x0 for each in trajectories]


def image(seed: int = 0) -> Tensor:
    return torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def transcribed(
    restorer: CommINFast, y: Tensor, noise: DiffusionNoise, point: OperatingPoint
) -> Tensor:
    """Four steps, scalar arithmetic for the schedule in float64."""
    bar = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])
    inn, snr_db = restorer.models.inns[None], torch.zeros(1)
    y = (2 * y - 1)[None]
    times = [300, 200, 101, 1, 0]  # evenly from 300 to 1
    shape = (3, SIZE, SIZE)
    x = math.sqrt(bar[300]) * y + math.sqrt(1 - bar[300]) * torch.from_numpy(noise.draw(0, shape))
    for i, (t, s) in enumerate(pairwise(times), 1):
        epsilon = restorer.prior(x, torch.tensor([t]))
        x0 = ((x - math.sqrt(1 - bar[t]) * epsilon) / math.sqrt(bar[t])).clamp(-1, 1)
        _, d = inn(x0, snr_db)
        guided = inn.inverse(split(y)[0], d, snr_db)
        x0 = (point.blend * guided + (1 - point.blend) * x0).clamp(-1, 1)
        epsilon = (x - math.sqrt(bar[t]) * x0) / math.sqrt(1 - bar[t])
        sigma = point.eta * math.sqrt((1 - bar[s]) / (1 - bar[t]) * (1 - bar[t] / bar[s]))
        x = math.sqrt(bar[s]) * x0 + math.sqrt(max(0, 1 - bar[s] - sigma**2)) * epsilon
        x = x + sigma * torch.from_numpy(noise.draw(i, shape))
    return x0[0]


@pytest.mark.parametrize(("blend", "eta"), [(1.0, 0.0), (0.3, 0.0), (0.6, 1.0), (1.0, 0.5)])
def test_steps_are_the_formulas(blend: float, eta: float) -> None:
    point = OperatingPoint(start=300, blend=blend, eta=eta)
    restorer, y, noise = fast(point), image(), DiffusionNoise(seed=5, frame_id=6)
    [restored] = run(restorer, restorer.start(y, 0.0, 4, noise))
    expected = transcribed(restorer, y, noise, point)
    assert (restored - expected).abs().max() < 1e-3  # float32 rounding of 1 - alpha_bar


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("t", "s"), [(400, 350), (50, 0), (1000, 500)])
def test_a_step_is_that_of_diffusers(t: int, s: int, eta: float) -> None:
    scheduler = DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False, set_alpha_to_one=True
    )
    scheduler.set_timesteps(1000 // (t - s))
    x, epsilon, z = torch.randn(3, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    step = Step.between([t], [s], torch.device("cpu"))
    x0 = step.predict_x0(x, epsilon)
    expected = scheduler.step(epsilon, t - 1, x, eta=eta, variance_noise=z).prev_sample
    torch.testing.assert_close(step.ddim(x, x0, z, eta), expected, rtol=1e-3, atol=1e-3)


def test_with_the_plain_split_the_coarse_part_is_the_observation() -> None:
    """An untrained INN replaces the block means by those of y, exactly."""
    restorer, y = fast(OperatingPoint(start=200), trained=False), image() * 0.2 + 0.4
    trajectory = restorer.start(y, 0.0, 4, DiffusionNoise(1, 2))
    trajectory.x *= 0.1  # keeps the estimate of a random network within [-1, 1], unclamped
    [restored] = run(restorer, trajectory)
    assert restored.abs().max() < 1
    torch.testing.assert_close(split(restored[None])[0], split(2 * y[None] - 1)[0])


def test_batch_mates_change_nothing() -> None:
    restorer = fast(OperatingPoint(start=300, eta=1.0))
    start = [restorer.start(image(i), float(i), 4, DiffusionNoise(9, i)) for i in range(3)]
    together = run(restorer, *start)
    for i, expected in enumerate(together):
        [alone] = run(restorer, restorer.start(image(i), float(i), 4, DiffusionNoise(9, i)))
        torch.testing.assert_close(alone, expected, rtol=0, atol=1e-4)


def test_the_nearest_operating_point_serves() -> None:
    points = {-5.0: OperatingPoint(start=400), 5.0: OperatingPoint(start=100)}
    sampling = FastSampling(steps=4, by_snr_db=points)
    assert [sampling.at(snr).start for snr in (-9, -1, 1, 7)] == [400, 400, 100, 100]


def test_there_are_no_more_steps_than_times() -> None:
    with pytest.raises(ValidationError, match="101 steps from time 100"):
        FastSampling(steps=101, by_snr_db={0.0: OperatingPoint(start=100)})
    assert fast(OperatingPoint(start=100)).max_steps == 100
