"""The loss on the prior's estimates: what it measures, and that training by it lowers it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from receiver.inn import INN, merge, split
from shared.architecture import INNArchitecture
from training.config import GuidedLoss
from training.guided import GuidedInverse

SIZE = 32


def alpha_bar(t: Tensor) -> Tensor:
    """Of the linear schedule, Ho et al., 2020: (B, 1, 1, 1) for times (B,)."""
    bar = torch.cat([torch.ones(1), (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)])
    return bar[t][:, None, None, None]


class KnowsTheImage(nn.Module):
    """A prior whose estimate is always ``x``: it predicts just the noise that was added."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, state: Tensor, t: Tensor) -> Tensor:
        self.asked.append((state, t))
        bar = alpha_bar(t)
        return (state - bar.sqrt() * self.x) / (1 - bar).sqrt()


def images(count: int) -> Tensor:
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, SIZE, mode="bilinear") * 0.8 + 0.1


def loss(inn: INN, x: Tensor, y: Tensor, settings: GuidedLoss) -> Tensor:
    guided = GuidedInverse(settings, KnowsTheImage(2 * x - 1))  # type: ignore[arg-type]
    return guided(inn, x, y, torch.zeros(len(x)), torch.Generator().manual_seed(1))


def test_it_is_the_error_of_what_the_observation_brings_in() -> None:
    """With the plain split and a perfect estimate, what is left is y's error in the block means."""
    x, inn = images(4), INN(INNArchitecture(levels=1, snr_conditioned=True))
    y = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    expected = (2 * (split(y)[0] - split(x)[0])).square().mean()
    torch.testing.assert_close(loss(inn, x, y, GuidedLoss()), expected, rtol=1e-3, atol=1e-6)


def test_it_asks_about_what_a_sampler_meets() -> None:
    """The decoded image noised, then the estimate of that noised: what is left is unit noise."""
    x, inn = images(32), INN(INNArchitecture(levels=1, snr_conditioned=True))
    y = (x * 0.6 + 0.3).clamp(0, 1)
    prior = KnowsTheImage(2 * x - 1)
    guided = GuidedInverse(GuidedLoss(start=20), prior)  # type: ignore[arg-type]
    guided(inn, x, y, torch.zeros(len(x)), torch.Generator().manual_seed(1))
    (first, early), (second, late) = prior.asked
    assert early.max() <= 20 < late.max()
    for image, state, t in (
        (2 * y - 1, first, early),
        (merge(split(2 * y - 1)[0], split(2 * x - 1)[1]), second, late),
    ):
        bar = alpha_bar(t)
        noise = (state - bar.sqrt() * image) / (1 - bar).sqrt()
        assert noise.square().mean((1, 2, 3)) == pytest.approx(torch.ones(32), abs=0.15)


def test_the_times_of_estimates_follow_the_power() -> None:
    x, inn = images(32), INN(INNArchitecture(levels=1, snr_conditioned=True))
    late = {}
    for power in (1.0, 2.0):
        prior = KnowsTheImage(2 * x - 1)
        guided = GuidedInverse(GuidedLoss(power=power), prior)  # type: ignore[arg-type]
        guided(inn, x, x, torch.zeros(len(x)), torch.Generator().manual_seed(1))
        late[power] = prior.asked[1][1].double()
    assert late[1.0].max() > 900
    squared = 1000 * (late[1.0] / 1000) ** 2  # of whole times, so off by up to two, and by rounding
    assert ((late[2.0] - squared).abs() <= 3).all()


def test_nothing_is_lost_where_the_link_loses_nothing() -> None:
    x, inn = images(4), INN(INNArchitecture(levels=2, snr_conditioned=True))
    assert loss(inn, x, x, GuidedLoss(perceptual_weight=1.0)) < 1e-4


def test_perception_has_a_weight() -> None:
    x, inn = images(4), INN(INNArchitecture(levels=1, snr_conditioned=True))
    y = (x * 0.5 + 0.2).clamp(0, 1)
    without, once, twice = (
        float(loss(inn, x, y, GuidedLoss(perceptual_weight=weight))) for weight in (0, 1, 2)
    )
    assert once > without
    assert twice - once == pytest.approx(once - without, rel=1e-4)


def test_only_the_inn_learns_and_it_does() -> None:
    x = images(8)
    y = (x * 0.7 + 0.1).clamp(0, 1)
    torch.manual_seed(0)
    inn = INN(INNArchitecture(levels=1, lifts=1, width=8, snr_conditioned=True))
    guided = GuidedInverse(GuidedLoss(), KnowsTheImage(2 * x - 1))  # type: ignore[arg-type]
    assert not list(guided.parameters())
    optimiser = torch.optim.Adam(inn.parameters(), 3e-3)
    history = []
    for _ in range(40):
        value = guided(inn, x, y, torch.zeros(8), torch.Generator().manual_seed(1))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        history.append(float(value.detach()))
    assert history[-1] < history[0] / 3
