"""Our schedule and reverse step against diffusers' DDPMScheduler."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from receiver.diffusion import TRAINING_STEPS, Step, alpha_bar, quadratic_timesteps, timesteps


@pytest.fixture(scope="module")
def reference() -> DDPMScheduler:
    return DDPMScheduler(
        TRAINING_STEPS, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False
    )


def test_alpha_bar_is_diffusers(reference: DDPMScheduler) -> None:
    torch.testing.assert_close(alpha_bar()[1:], reference.alphas_cumprod)


@pytest.mark.parametrize("t", [1000, 999, 500, 100, 10, 2, 1])
def test_a_step_equals_diffusers(reference: DDPMScheduler, t: int) -> None:
    x, epsilon = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(t))
    expected = reference.step(epsilon, t - 1, x, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    step = Step.between([t] * 2, [t - 1] * 2, x.device)
    x0 = step.predict_x0(x, epsilon)
    torch.testing.assert_close(x0, expected.pred_original_sample, atol=1e-5, rtol=1e-5)
    ours = step.posterior_mean(x, x0) + step.sigma * noise
    torch.testing.assert_close(ours, expected.prev_sample, atol=1e-5, rtol=0)


def test_a_respaced_step_equals_diffusers(reference: DDPMScheduler) -> None:
    """diffusers goes from t to t - 1000 / steps; we to whatever time the caller names."""
    reference.set_timesteps(50)
    x, epsilon = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = reference.step(epsilon, 480, x, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    step = Step.between([481], [461], x.device)
    ours = step.posterior_mean(x, step.predict_x0(x, epsilon)) + step.sigma * noise
    torch.testing.assert_close(ours, expected.prev_sample, atol=1e-5, rtol=0)


@pytest.mark.parametrize("t", [1000, 500, 10, 2, 1])
def test_the_large_variance_is_diffusers(t: int) -> None:
    large = DDPMScheduler(
        TRAINING_STEPS,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        variance_type="fixed_large",
    )
    x, epsilon = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(t))
    expected = large.step(epsilon, t - 1, x, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    step = Step.between([t], [t - 1], x.device)
    mean = step.posterior_mean(x, step.predict_x0(x, epsilon))
    ours = mean + step.noise_scale(variance=1.0) * noise
    torch.testing.assert_close(ours, expected.prev_sample, atol=1e-5, rtol=0)


def test_the_variance_is_interpolated_in_the_logarithm() -> None:
    step = Step.between([40], [26], torch.device("cpu"))
    small, middle, large = (step.noise_scale(v) for v in (0.0, 0.5, 1.0))
    assert small == step.sigma
    torch.testing.assert_close(large, step.beta.sqrt())
    torch.testing.assert_close(middle, (small * large).sqrt())


def test_images_of_a_batch_may_be_at_different_times() -> None:
    x, epsilon = torch.randn(2, 2, 3, 8, 8)
    both = Step.between([700, 3], [650, 0], x.device)
    mean = both.posterior_mean(x, both.predict_x0(x, epsilon))
    for i, (t, s) in enumerate([(700, 650), (3, 0)]):
        alone = Step.between([t], [s], x.device)
        row = slice(i, i + 1)
        torch.testing.assert_close(
            mean[row], alone.posterior_mean(x[row], alone.predict_x0(x[row], epsilon[row]))
        )


def test_the_last_step_returns_its_estimate_without_noise() -> None:
    x, x0 = torch.randn(2, 1, 3, 4, 4)
    last = Step.between([40], [0], x.device)
    assert last.sigma.item() == 0
    torch.testing.assert_close(last.posterior_mean(x, x0), x0)


def test_noising_inverts_prediction() -> None:
    x0, noise = torch.randn(2, 1, 3, 4, 4)
    step = Step.between([300], [299], x0.device)
    torch.testing.assert_close(
        step.predict_x0(step.add_noise(x0, noise), noise), x0, atol=1e-5, rtol=1e-5
    )


@given(st.data())
def test_respaced_times_fall_from_start_to_one(data: st.DataObject) -> None:
    start = data.draw(st.integers(2, TRAINING_STEPS))
    steps = data.draw(st.integers(2, start))
    times = timesteps(steps, start)
    assert len(times) == steps
    assert (times[0], times[-1]) == (start, 1)
    assert all(later < earlier for earlier, later in itertools.pairwise(times))


def test_all_steps_are_the_full_schedule() -> None:
    assert timesteps(1000) == list(range(1000, 0, -1))


@pytest.mark.parametrize(("steps", "start"), [(0, 1000), (1001, 1000), (5, 4), (5, 1001)])
def test_impossible_spacings_are_refused(steps: int, start: int) -> None:
    with pytest.raises(ValueError, match=f"steps {steps}"):
        timesteps(steps, start)


@given(steps=st.integers(1, 1000))
def test_quadratic_times_fall_from_the_noisiest_and_never_repeat(steps: int) -> None:
    times = quadratic_timesteps(steps)
    assert len(times) == steps
    assert times[0] == 1000
    assert times[-1] >= 1
    assert all(later < earlier for earlier, later in itertools.pairwise(times))


def test_quadratic_times() -> None:
    assert quadratic_timesteps(5) == [1000, 640, 360, 160, 40]
    assert quadratic_timesteps(1000) == timesteps(1000)
    with pytest.raises(ValueError, match="steps 1001 must be 1 to 1000"):
        quadratic_timesteps(1001)
