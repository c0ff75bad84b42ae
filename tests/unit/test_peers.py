"""The benchmark against azula: its DPS and ours are the same algorithm, told apart by nothing."""

from __future__ import annotations

import pytest
import torch

from receiver.restorers.base import from_unit
from receiver.restorers.dps import DPS
from shared.architecture import INNArchitecture
from shared.bundle import Guidance
from shared.draws import DiffusionNoise
from tests.tiny import CPU, make_inn, make_models

pytest.importorskip("azula", reason="needs the extra 'bench'")
from azula.guidance import DPSSampler

from benchmarks.peers import DDPMSchedule, Point, PriorDenoiser, findings, mean_over


def test_azulas_dps_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    inn = make_inn(INNArchitecture(levels=2, lifts=1, width=8), std=0)
    models = make_models(16, inn, Guidance(zeta_by_snr_db={0.0: 1.0}))
    assert models.prior
    assert models.guidance
    restorer = DPS(models, models.prior, models.guidance)
    y = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    trajectory = restorer.start(y, 0.0, 1000, DiffusionNoise(0, 0))
    trajectory.times = list(range(300, 0, -1))
    start = trajectory.x[None]
    drawn = [torch.from_numpy(trajectory.noise.draw(step, y.shape)) for step in range(1, 6)]
    for _ in range(5):
        restorer.step([trajectory])

    denoiser = PriorDenoiser(models.prior, DDPMSchedule(CPU)).eval()
    coarse = models.inn_for(0.0).coarse
    sampler = DPSSampler(denoiser, coarse(from_unit(y)[None]), coarse, start=0.3, steps=300)
    monkeypatch.setattr(torch, "randn_like", lambda like: drawn.pop(0)[None])
    x = start
    for t, s in sampler.timesteps[:6].unfold(0, 2, 1):
        x = sampler.step(x, t, s)
    assert not drawn
    torch.testing.assert_close(x[0], trajectory.x, rtol=1e-4, atol=1e-4)


def point(steps: int, seconds: float, lpips: float, peer: bool = False) -> Point:
    return Point("peer" if peer else "ours", steps, peer, seconds, 20.0, lpips)


def test_both_ratios_are_taken_from_the_best_of_ours() -> None:
    peer = point(1000, 10.0, 0.2, peer=True)
    own = [point(10, 0.5, 0.25), point(25, 1.0, 0.2), point(50, 2.0, 0.1), point(99, 20.0, 0.05)]
    quality, speed = findings(peer, own)
    assert (quality.ratio, quality.details["ours"]) == (0.5, "ours, 50 steps")
    assert (speed.ratio, speed.details["ours"]) == (10.0, "ours, 25 steps")
    assert quality.holds
    assert speed.holds


def test_where_ours_is_behind_it_says_so() -> None:
    found = findings(point(64, 0.1, 0.01, peer=True), [point(10, 0.5, 0.25)])
    assert [each.holds for each in found] == [False, False]
    assert [each.details["ours"] for each in found] == ["none", "none"]


def test_means_are_over_snrs() -> None:
    mean = mean_over([point(10, 1.0, 0.1), point(10, 3.0, 0.3)])
    assert (mean.seconds, mean.lpips, mean.steps) == (2.0, pytest.approx(0.2), 10)
