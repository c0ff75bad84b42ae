"""The optimal linear analogue scheme: its closed form, its noise, its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from evaluation.baselines.linear import LinearAnalogue, real_noise, water_fill

SYMBOLS = 8


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Gaussian images around grey, of falling variances, far from the edges of [0, 1]."""
    draws = torch.Generator().manual_seed(0)
    mixing = torch.linalg.qr(torch.randn(48, 48, generator=draws)).Q * torch.logspace(-1.3, -3, 48)
    return 0.5 + (torch.randn(4000, 48, generator=draws) @ mixing.T).view(-1, 3, 4, 4)


@pytest.fixture(scope="module")
def scheme(images: Tensor) -> LinearAnalogue:
    return LinearAnalogue.fit(images, SYMBOLS)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0])
def test_error_is_that_of_the_closed_form(
    scheme: LinearAnalogue, images: Tensor, snr_db: float
) -> None:
    r""":math:`\sum_i \lambda_i N / (p_i + N)` plus what the components left out hold."""
    noise = real_noise(snr_db)
    power = water_fill(scheme.variance, noise, SYMBOLS)
    centred = images.flatten(1) - scheme.mean
    left_out = float(centred.square().sum(1).mean() - scheme.variance.sum())
    expected = float((scheme.variance * noise / (power + noise)).sum()) + left_out
    y = scheme.send(images, snr_db, range(len(images)), seed=1)
    assert float((y - images).square().sum((1, 2, 3)).mean()) == pytest.approx(expected, rel=0.03)


def test_noise_belongs_to_the_frame(scheme: LinearAnalogue, images: Tensor) -> None:
    x = images[:4]
    together = scheme.send(x, 0.0, [5, 6, 7, 8], seed=3)
    backwards = scheme.send(x.flip(0), 0.0, [8, 7, 6, 5], seed=3)
    torch.testing.assert_close(backwards.flip(0), together)
    renamed = scheme.send(x, 0.0, [5, 6, 7, 9], seed=3)
    torch.testing.assert_close(renamed[:3], together[:3])
    for other in (renamed[3], scheme.send(x, 0.0, [5, 6, 7, 8], seed=4)[3]):
        assert (other - together[3]).abs().max() > 1e-3


def test_file(scheme: LinearAnalogue, images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "fit.safetensors"
    scheme.save(path)
    loaded = LinearAnalogue.load(path)
    assert loaded.digest == scheme.digest
    assert loaded.symbols == SYMBOLS
    sent = [each.send(images[:2], 0.0, [0, 1], 0) for each in (scheme, loaded)]
    assert torch.equal(*sent)
    other = LinearAnalogue.fit(images[:2000], SYMBOLS)
    assert other.digest != scheme.digest


def test_other_files_are_refused(scheme: LinearAnalogue, tmp_path: Path) -> None:
    path = tmp_path / "fit.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="is not a fitted linear scheme"):
        LinearAnalogue.load(path)
    save_file({"mean": scheme.mean}, path)
    with pytest.raises(ValueError, match="is not a fitted linear scheme"):
        LinearAnalogue.load(path)
    shapes = {"mean": scheme.mean[:-1].clone(), "directions": scheme.directions.contiguous()}
    save_file({**shapes, "variance": scheme.variance}, path)
    with pytest.raises(ValueError, match="shapes do not agree"):
        LinearAnalogue.load(path)
