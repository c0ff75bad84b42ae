from __future__ import annotations

import asyncio
import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from pydantic import ValidationError

import receiver.precision
from receiver.engine import Engine, Job, Outcome
from receiver.models import ReceiverModels
from receiver.precision import Lowered, compute_in, pick_dtype
from receiver.prior import Prior
from receiver.settings import ReceiverSettings
from shared.bundle import FastSampling, OperatingPoint
from shared.draws import Purpose, generator, unit_complex_normal
from tests.tiny import SYMBOLS, make_models, make_prior


@pytest.fixture(scope="module")
def single() -> ReceiverModels:
    late = FastSampling(steps=8, by_snr_db={0.0: OperatingPoint(start=100)})
    return make_models(fast={"commin-fast": FastSampling(), "late": late}, attention=True)


@pytest.fixture(scope="module")
def half(single: ReceiverModels) -> ReceiverModels:
    """The same networks, computed in bfloat16."""
    assert single.prior
    prior, inns = copy.deepcopy(single.prior), copy.deepcopy(single.inns)
    compute_in(torch.bfloat16, prior, [*inns.values()])
    return replace(single, prior=prior, inns=inns, dtype=torch.bfloat16)


def restored(
    models: ReceiverModels, frames: int, max_batch: int, restorer: str = "commin-fast"
) -> np.ndarray:
    async def run() -> list[np.ndarray]:
        engine = Engine(models, max_batch=max_batch)

        async def one(frame_id: int) -> np.ndarray:
            z = unit_complex_normal(generator(1, frame_id, Purpose.CHANNEL), SYMBOLS)
            job = Job(frame_id, 3, z, 0.0, restorer, steps=8)
            last = [event async for event in engine.run(job)][-1]
            assert isinstance(last, Outcome)
            return last.restored

        images = await asyncio.gather(*map(one, range(frames)))
        await engine.close()
        return images

    return np.stack(asyncio.run(run())).astype(int)


@torch.inference_mode()
def test_networks_take_and_give_float32_whatever_they_compute_in(
    single: ReceiverModels, half: ReceiverModels
) -> None:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    t, snr_db = torch.tensor([1, 1000]), torch.zeros(2)
    assert single.prior
    assert half.prior
    a, b = single.prior(x, t), half.prior(x, t)
    assert b.dtype is torch.float32
    assert 0 < (a - b).abs().max() < 0.05 * a.abs().max(), "rounded, and no more than that"
    inn = half.inn_for(0.0)
    c, details = inn(x, snr_db)
    assert {c.dtype, *(d.dtype for d in details)} == {torch.float32}
    # Lifting sums are in float32, so that the inverse undoes the very same rounded branches.
    assert (inn.inverse(c, details, snr_db) - x).abs().max() < 1e-2


def test_where_a_gradient_is_wanted_it_is_that_of_float32(
    single: ReceiverModels, half: ReceiverModels
) -> None:
    gradients = []
    for models in (single, half):
        assert models.prior
        x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        x.requires_grad_()
        epsilon = models.prior(x, torch.tensor([1, 1000]))
        snr_db = torch.zeros(2)
        c, details = models.inn_for(0.0)(epsilon, snr_db)
        image = models.inn_for(0.0).inverse(c.detach(), details, snr_db)
        gradients += torch.autograd.grad(image.square().sum(), x)
    assert torch.equal(*gradients)


def test_a_restored_image_is_within_a_few_grey_levels_of_float32(
    single: ReceiverModels, half: ReceiverModels
) -> None:
    difference = np.abs(restored(single, 4, 4) - restored(half, 4, 4))
    assert difference.max() <= 6
    assert difference.mean() < 1


def test_batch_mates_change_at_most_one_grey_level_in_bfloat16(half: ReceiverModels) -> None:
    """Where kernels round otherwise in larger batches, too: here, they do not.

    The error of an estimate grows with the noise in the state. Any other rounding costs up to 1.3
    grey levels from time 400, up to 0.4 from time 100.
    """
    assert np.abs(restored(half, 5, 1, "late") - restored(half, 5, 5, "late")).max() <= 1


def test_small_networks_are_not_worth_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(receiver.precision, "_race")
    assert pick_dtype("auto", make_prior(attention=True), 32) is torch.float32


@pytest.mark.parametrize(
    ("seconds", "chosen"), [((2.0, 1.0), torch.bfloat16), ((1.2, 1.0), torch.float32)]
)
def test_bfloat16_has_to_be_worth_it_and_is_measured_once(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], chosen: torch.dtype
) -> None:
    races = []

    def race(single: Prior, half: Prior, image_size: int) -> tuple[float, float]:
        races.append((type(single.network), type(half.network), image_size))
        return seconds

    monkeypatch.setattr(receiver.precision, "_race", race)
    monkeypatch.setattr(receiver.precision, "_measured", {})
    monkeypatch.setattr(receiver.precision, "SMALL_NETWORK", 0)
    prior = make_prior(attention=True)
    assert {pick_dtype("auto", prior, 32) for _ in range(3)} == {chosen}
    assert races == [(UNet2DModel, Lowered, 32)]
    assert type(prior.network) is UNet2DModel, "the measurement leaves the prior as it was"


def test_the_race_runs_both() -> None:
    single, half = make_prior(attention=True), make_prior(attention=True)
    compute_in(torch.bfloat16, half, ())
    assert all(0 < seconds < 60 for seconds in receiver.precision._race(single, half, 32))


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_set_precision_is_taken_as_it_is(name: str, dtype: torch.dtype) -> None:
    assert pick_dtype(name, make_prior(attention=True), 32) is dtype  # type: ignore[arg-type]


def test_other_precisions_are_refused() -> None:
    with pytest.raises(ValidationError, match="precision"):
        ReceiverSettings(bundle="x", precision="fp8")  # type: ignore[arg-type]
