"""Intermediate-layer optimisation on a tiny generator with random weights."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import receiver.restorers as restorers
from receiver.engine import Engine, Job, Outcome
from receiver.inn import INN
from receiver.models import ReceiverModels
from receiver.restorers import restorers_for
from receiver.restorers.base import from_unit, to_unit
from receiver.restorers.inverse_jscc import InverseJSCC, Optimisation, stage_ends
from receiver.stylegan2 import StyleGAN2
from shared.architecture import INNArchitecture, StyleGAN2Architecture
from shared.draws import DiffusionNoise, Purpose, generator, unit_complex_normal
from shared.weights import ready
from tests.tiny import CPU, SYMBOLS, make_inn, make_models

STEPS = 60


@pytest.fixture(scope="module")
def models() -> ReceiverModels:
    torch.manual_seed(0)
    network = StyleGAN2(StyleGAN2Architecture(latent=8, mapping_layers=2, channels=(12, 10, 8, 8)))
    with torch.no_grad():
        for block in network.blocks:
            block.conv.strength.fill_(0.05)  # type: ignore[union-attr, operator]
            block.to_rgb.conv.weight.mul_(0.3)  # type: ignore[union-attr, operator]
        network.w_mean.copy_(network.to_w(torch.randn(500, 8)).mean(0))
    models = make_models(inn=make_inn(std=0.02))
    return replace(models, prior=None, guidance=None, generator=ready(network, CPU))


@pytest.fixture(scope="module")
def restorer(models: ReceiverModels) -> InverseJSCC:
    found = restorers_for(models)["inverse-jscc"]
    assert isinstance(found, InverseJSCC)
    return found


def made_by_the_generator(restorer: InverseJSCC, frame_id: int) -> Tensor:
    """An image of a random style, with the noise that its frame has, in [0, 1]."""
    draws = torch.Generator().manual_seed(frame_id)
    network = restorer.generator
    planes = restorer.draw_planes(DiffusionNoise(3, frame_id), CPU)
    w = network.spread(network.to_w(torch.randn(1, 8, generator=draws)))
    return to_unit(network(w, [plane[None] for plane in planes])[0])


def begin(restorer: InverseJSCC, frame_id: int, steps: int = STEPS) -> Optimisation:
    """Of an image that the generator made, as the INN's coarse part of it shows it."""
    image = from_unit(made_by_the_generator(restorer, frame_id))[None]
    snr_db = float(frame_id % 5)
    inn = restorer.models.inn_for(snr_db)
    coarse, details = inn(image, torch.tensor([snr_db]))
    y = INN.inverse(_plain(inn), coarse, [torch.zeros_like(d) for d in details], torch.zeros(1))
    return restorer.start(to_unit(y)[0], snr_db, steps, DiffusionNoise(3, frame_id))


def _plain(inn: INN) -> INN:
    """The split without lifting steps, whose inverse makes an image with a given coarse part."""
    return make_inn(INNArchitecture(levels=len(inn.levels), lifts=1, width=8), std=0)


def finish(restorer: InverseJSCC, runs: Sequence[Optimisation]) -> None:
    while remaining := [each for each in runs if not each.done]:
        keys = {restorer.batch_key(each) for each in remaining}
        for key in keys:
            restorer.step([each for each in remaining if restorer.batch_key(each) == key])


def test_it_lowers_its_loss_and_recovers_what_the_generator_made(restorer: InverseJSCC) -> None:
    runs = [begin(restorer, i) for i in range(4)]
    finish(restorer, runs)
    losses = torch.tensor([each.losses for each in runs]).mean(0)
    thirds = [float(part.mean()) for part in losses.chunk(6)]
    assert thirds == sorted(thirds, reverse=True), "the loss falls on average"
    assert losses[-1] < 0.03 * losses[0]
    for i, each in enumerate(runs):
        truth = from_unit(made_by_the_generator(restorer, i))
        start = restorer.images([_at_the_start(restorer, i)])[0].detach()
        error, first = ((image - truth).square().mean() for image in (each.x0, start))
        assert error < 0.06 * first


def _at_the_start(restorer: InverseJSCC, frame_id: int) -> Optimisation:
    fresh = begin(restorer, frame_id)
    restorer.enter(fresh, 0)
    return fresh


def test_the_estimate_is_the_best_image_so_far(restorer: InverseJSCC) -> None:
    run = begin(restorer, 0, steps=20)
    kept: dict[float, Tensor] = {}
    while not run.done:
        restorer.step([run])
        kept[run.losses[-1]] = run.x
        assert torch.equal(run.x0, kept[min(run.losses)])


def test_batch_mates_change_nothing(restorer: InverseJSCC) -> None:
    alone = [begin(restorer, i, steps=24) for i in range(3)]
    for each in alone:
        finish(restorer, [each])
    together = [begin(restorer, i, steps=24) for i in range(3)]
    for _ in range(5):  # the first is ahead of the others, at another stage in the end
        restorer.step(together[:1])
    finish(restorer, together)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.x0, other.x0, atol=4e-3, rtol=0)  # half a grey level
        assert one.losses == pytest.approx(other.losses, abs=2e-3)
    assert (alone[0].x0 - alone[1].x0).abs().max() > 0.1


def test_each_stage_optimises_its_own_variables(restorer: InverseJSCC) -> None:
    run = begin(restorer, 0, steps=15)  # 5, 5, 3, 2 steps
    assert run.ends == (5, 10, 13, 15)
    for stage, steps in enumerate((5, 5, 3, 2)):
        restorer.step([run])  # enters the stage
        assert run.stage == stage
        assert (run.features is None) == (stage == 0)
        before = run.w.detach().clone()
        features = run.features.detach().clone() if run.features is not None else None
        for _ in range(steps - 1):
            restorer.step([run])
        changed = (run.w != before).any(1).tolist()
        assert changed == [block >= stage for block in range(4)]
        if features is not None and run.features is not None:
            assert run.features.shape[1] == 2 ** (stage + 1)
            assert not torch.equal(run.features, features)
    assert run.done


def test_entering_a_stage_keeps_the_image(restorer: InverseJSCC) -> None:
    run = begin(restorer, 0)
    for _ in range(3):
        restorer.step([run])
    image = restorer.images([run])
    for stage in (1, 3):  # a stage may have no steps
        restorer.enter(run, stage)
        torch.testing.assert_close(restorer.images([run]), image)


@pytest.mark.parametrize(
    ("steps", "blocks", "ends"),
    [
        (150, 5, (50, 100, 125, 150)),
        (300, 5, (100, 200, 250, 300)),
        (6, 5, (2, 4, 5, 6)),
        (1, 5, (1, 1, 1, 1)),
        (100, 2, (50, 100)),
    ],
)
def test_the_schedule_is_in_proportion(steps: int, blocks: int, ends: tuple[int, ...]) -> None:
    assert stage_ends(steps, blocks) == ends


def test_the_noise_is_the_frames_own(restorer: InverseJSCC) -> None:
    one, again, other = (
        restorer.draw_planes(DiffusionNoise(*key), CPU) for key in [(3, 1), (3, 1), (3, 2)]
    )
    assert [tuple(plane.shape) for plane in one] == restorer.generator.noise_shapes
    for a, b, c in zip(one, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


async def test_the_engine_runs_it(models: ReceiverModels) -> None:
    """Under the engine's inference mode, alone and among others: the same picture."""

    async def outcome(engine: Engine, frame_id: int) -> Outcome:
        symbols = unit_complex_normal(generator(1, frame_id, Purpose.CHANNEL), SYMBOLS)
        job = Job(frame_id, 3, symbols, 0.0, "inverse-jscc", steps=8)
        events = [event async for event in engine.run(job)]
        assert isinstance(events[-1], Outcome)
        return events[-1]

    engine = Engine(models, max_batch=4, queue_limit=4)
    alone = [await outcome(engine, i) for i in range(3)]
    together = await asyncio.gather(*(outcome(engine, i) for i in range(3)))
    await engine.close()
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one.restored.astype(int) - other.restored).max() <= 1
        assert not np.array_equal(one.restored, one.decoded)


def test_it_is_offered_only_where_all_its_parts_are(
    models: ReceiverModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(restorers_for(models)) == ["none", "inverse-jscc"]
    monkeypatch.setattr(restorers, "has_lpips", lambda: False)
    assert list(restorers_for(models)) == ["none"]
    monkeypatch.undo()
    for missing in ({"generator": None}, {"inns": {}}):
        assert list(restorers_for(replace(models, **missing))) == ["none"]  # type: ignore[arg-type]
    small = StyleGAN2(StyleGAN2Architecture(latent=8, channels=(8, 8)))
    assert list(restorers_for(replace(models, generator=small))) == ["none"], "LPIPS needs pixels"
