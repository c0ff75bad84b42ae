"""The metrics: published or independently known values, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from evaluation import metrics
from evaluation.alexnet import AlexNetFeatures
from shared.bundle import BundleError
from shared.perceptual import TRUNK, load_lpips

SAMPLES = Path(__file__).parents[2] / "models" / "faces64" / "samples"


def sample(name: str) -> Tensor:
    """A sample face at 64 pixels by plain averaging, which no library version changes."""
    pixels = np.asarray(Image.open(SAMPLES / f"{name}.png").convert("RGB")).copy()
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    return F.avg_pool2d(x, x.shape[-1] // 64)


def blocky(x: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(x, 4), scale_factor=4, mode="nearest")


@pytest.mark.parametrize(
    ("name", "blocks", "shift"),
    [
        ("eileen-collins", 0.44158, 0.01902),
        ("grace-hopper", 0.38901, 0.01904),
        ("barack-obama", 0.44313, 0.01324),
    ],
)
def test_lpips_golden(name: str, blocks: float, shift: float) -> None:
    """Values of the lpips package 0.1.4 on these images.

    With the same code the reference repository's ex_ref gives 0.7219 against ex_p0 and 0.1376
    against ex_p1 (published: 0.722 and 0.138); those images are not ours to ship.
    """
    x = sample(name)
    assert metrics.lpips(x, blocky(x)).item() == pytest.approx(blocks, abs=2e-4)
    assert metrics.lpips(x, x.roll(1, 3)).item() == pytest.approx(shift, abs=2e-4)


def test_metrics_are_per_image() -> None:
    faces = torch.cat([sample("eileen-collins"), sample("grace-hopper")])
    other = blocky(faces)
    other[1] = faces[1]
    for metric, best in [(metrics.lpips, 0), (metrics.ssim, 1), (metrics.ms_ssim, 1)]:
        first, second = metric(faces, other).tolist()
        assert second == pytest.approx(best, abs=1e-5)
        assert abs(first - best) > 0.1
    assert metrics.psnr_db(faces, other).tolist() == [
        pytest.approx(20.96416, abs=1e-3),
        float("inf"),
    ]


def test_psnr_of_a_known_error() -> None:
    x = torch.full((2, 3, 8, 8), 0.5)
    assert metrics.psnr_db(x, x + 0.1).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)


def test_loading_lpips_leaves_the_generator_alone(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_lpips()
    assert torch.equal(torch.rand(4), expected)
    assert capsys.readouterr() == ("", "")


def test_a_trunk_that_differs_is_refused(tmp_path: Path) -> None:
    data = bytearray(TRUNK.read_bytes())
    data[-1] ^= 1
    tampered = tmp_path / "trunk.safetensors"
    tampered.write_bytes(data)
    with pytest.raises(BundleError, match=r"trunk\.safetensors has sha256 .*, expected 09a72eeb"):
        load_lpips(tampered)
    with pytest.raises(BundleError, match="missing"):
        load_lpips(tmp_path / "nothing")


def test_frechet_distance_agrees_with_its_formula() -> None:
    """Against |m1 - m2|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2) on the same features."""
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(60, 3, 32, 32, generator=generator)
    fake = torch.rand(60, 3, 32, 32, generator=generator) * 0.6
    f, g = (AlexNetFeatures()(images).double().numpy() for images in (real, fake))
    a, b = np.cov(f.T), np.cov(g.T)
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(0)).sum()
    expected = ((f.mean(0) - g.mean(0)) ** 2).sum() + np.trace(a + b) - 2 * cross
    assert metrics.frechet_alexnet_distance(real, fake) == pytest.approx(expected, rel=1e-3)
    assert metrics.frechet_alexnet_distance(real, real) == pytest.approx(0, abs=1e-3)


def test_kernel_distance_tells_sets_apart_and_is_reproducible() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second, third = (torch.rand(40, 3, 32, 32, generator=generator) for _ in range(3))
    same, _ = metrics.kernel_alexnet_distance(first, second, subset=20)
    apart, deviation = metrics.kernel_alexnet_distance(first, third * 0.6, subset=20)
    assert abs(same) < 0.1 * apart
    assert (apart, deviation) == metrics.kernel_alexnet_distance(first, third * 0.6, subset=20)


@pytest.mark.parametrize(
    ("size", "scales"), [(11, 1), (22, 2), (64, 3), (99, 4), (176, 5), (256, 5)]
)
def test_ms_ssim_uses_the_scales_that_fit(size: int, scales: int) -> None:
    assert metrics.ms_ssim_scales(size) == scales
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    assert metrics.ms_ssim(x, x).item() == pytest.approx(1, abs=1e-5)


def test_bootstrap_interval() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(1)) + 3
    low, high = metrics.bootstrap_interval(values)
    standard_error = float(values.std()) / 20
    assert low < float(values.mean()) < high
    assert high - low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)
    assert metrics.bootstrap_interval(values) == (low, high)
    assert metrics.bootstrap_interval([2.0, 2.0]) == (2.0, 2.0)


GOOD = torch.zeros(2, 3, 16, 16)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (torch.zeros(2, 3, 16, 8), r"\(2, 3, 16, 16\) against \(2, 3, 16, 8\)"),
        (torch.zeros(2, 3, 16, 16) - 0.5, r"between -0.5 and -0.5, expected \[0, 1\]"),
        (torch.full((2, 3, 16, 16), torch.nan), "between nan and nan"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "type torch.uint8"),
    ],
)
def test_bad_images_are_refused(other: Tensor, message: str) -> None:
    for metric in (metrics.psnr_db, metrics.lpips, metrics.ssim, metrics.ms_ssim):
        with pytest.raises(ValueError, match=message):
            metric(GOOD, other)


@pytest.mark.parametrize("values", [[1.0], [1.0, float("inf")], [[1.0, 2.0]]])
def test_bad_samples_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"values of shape|not finite"):
        metrics.bootstrap_interval(values)


def test_too_few_images_for_a_set_distance() -> None:
    with pytest.raises(ValueError, match="1 images, expected at least 2"):
        metrics.frechet_alexnet_distance(GOOD[:1], GOOD)
