"""Inception-v3 for FID and KID, with random weights in the format of the trained ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_fidelity import feature_extractor_inceptionv3 as library

from evaluation import inception, tables
from evaluation.cells import Arithmetic, make_shards
from evaluation.images import Pixels
from evaluation.inception import InceptionError, InceptionFeatures
from evaluation.local_link import Frame
from evaluation.metrics import features_of, frechet_distance, kernel_distance
from evaluation.sweep import Plan, Serial, Sweep
from evaluation.tables import SetDistances


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of the library's architecture, each layer's gain about 1."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        captured: dict[str, Any] = {}

        def capture(self: nn.Module, state: Any, *_: Any, **__: Any) -> None:
            captured.update(nn.Module.state_dict(self))

        patch.setattr(library.torch, "load", lambda *_, **__: {})
        patch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", capture)
        library.FeatureExtractorInceptionV3("random", ["2048"], "none")
    for name, value in captured.items():
        if name.endswith("conv.weight"):
            nn.init.kaiming_normal_(value)
    torch.save(captured, path)
    return path


@pytest.fixture(scope="module")
def network(weights: Path) -> InceptionFeatures:
    return InceptionFeatures(weights)


def some_images(count: int, seed: int, contrast: float = 1.0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return (contrast * torch.rand(count, 3, 32, 32, generator=draws) * 255).round() / 255


def test_features_are_the_weights_own(network: InceptionFeatures, weights: Path) -> None:
    """Of 8-bit images as the library takes them, and with other weights others."""
    x = some_images(2, 0)
    features = features_of(network, x, batch=1)
    assert features.shape == (2, 2048)
    own = library.FeatureExtractorInceptionV3("same", ["2048"], str(weights))
    (expected,) = own((x * 255).round().to(torch.uint8))
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert features.std() > 1e-3
    assert not features.requires_grad


def test_distances_over_its_features(network: InceptionFeatures) -> None:
    """Zero between a set and itself, larger the more sets differ; of 200 features, for speed."""
    real, near, far = (
        features_of(network, some_images(8, seed, contrast), inception.BATCH)[:, :200]
        for seed, contrast in ((0, 1.0), (1, 1.0), (2, 0.3))
    )
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-2)
    assert frechet_distance(real, near) < frechet_distance(real, far)
    near_kid, far_kid = (kernel_distance(real, fake, subset=6)[0] for fake in (near, far))
    assert near_kid < far_kid
    shifted = real + 0.5  # the same covariance: what is left is |m1 - m2|^2
    assert frechet_distance(real, shifted) == pytest.approx(200 * 0.25, rel=1e-3)


def truncated(folder: Path, weights: Path) -> Path:
    path = folder / "half.pth"
    path.write_bytes(weights.read_bytes()[:100_000])
    return path


def of_another_network(folder: Path, weights: Path) -> Path:
    torch.save(nn.Linear(2, 2).state_dict(), folder / "linear.pth")
    return folder / "linear.pth"


def text(folder: Path, weights: Path) -> Path:
    path = folder / "page.html"
    path.write_text("<html>404</html>")
    return path


def empty(folder: Path, weights: Path) -> Path:
    (folder / "empty.pth").touch()
    return folder / "empty.pth"


def one_tensor(folder: Path, weights: Path) -> Path:
    torch.save(torch.zeros(3), folder / "tensor.pth")
    return folder / "tensor.pth"


class Command:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def with_a_command(folder: Path, weights: Path) -> Path:
    torch.save({"state": Command()}, folder / "command.pth")
    return folder / "command.pth"


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda folder, weights: folder / "none.pth", "cannot be read: No such file or directory"),
        (lambda folder, weights: folder, "cannot be read: Is a directory"),
        (truncated, "not a file of tensors that torch.save wrote"),
        (text, "not a file of tensors that torch.save wrote"),
        (empty, "not a file of tensors that torch.save wrote"),
        (with_a_command, "not a file of tensors that torch.save wrote"),
        (one_tensor, "holds no state dict"),
        (of_another_network, "not a state dict of torch-fidelity's Inception-v3"),
    ],
)
def test_bad_weights_are_refused(
    tmp_path: Path,
    weights: Path,
    make: Callable[[Path, Path], Path],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one line that names the file; nothing in it is run."""
    monkeypatch.chdir(tmp_path)
    path = make(tmp_path, weights)
    with pytest.raises(InceptionError) as caught:
        InceptionFeatures(path)
    assert str(caught.value).startswith(f"Inception weights {path}")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("ran").exists()


def test_without_the_library(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, library.__name__, None)
    with pytest.raises(InceptionError, match=r"pip install 'commin\[fid\]'"):
        InceptionFeatures(weights)


class Same:
    """A scheme that brings images over as they are."""

    name = "same"
    steps = 0

    def identity(self) -> dict[str, str]:
        return {}

    def send(self, frames: Any, snr_db: float, seed: int, on_progress: Any) -> list[Pixels]:
        return [frame.pixels for frame in frames]


def test_in_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """KID of any set that is large enough for distances, FID of those above its features."""
    from evaluation.cache import MemoryCache

    monkeypatch.setattr(tables, "LEAST_FOR_SETS", 2)

    class Means(InceptionFeatures):
        """In the network's place: a pooled image."""

        num_features = 120

        def __init__(self) -> None:
            nn.Module.__init__(self)

        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1).flatten(1)[:, :24]

    def distances(count: int) -> dict[str, float | None]:
        draws = np.random.default_rng(0)
        frames = [Frame(n, draws.integers(0, 256, (32, 32, 3), np.uint8)) for n in range(count)]
        plan = Plan(("same",), (0.0,), (0,), tuple(make_shards(frames, 60)))
        catalogue: Any = SimpleNamespace(scheme=lambda name: Same())
        sweep = Sweep(plan, catalogue, Serial(catalogue, Arithmetic("cpu")), MemoryCache())
        sweep.run(sweep.missing())
        return SetDistances(sweep, Means())("same", 0.0)

    monkeypatch.setattr(tables, "InceptionFeatures", Means)
    few, enough = distances(110), distances(120)
    assert few.keys() == enough.keys() == set(tables.SET_DISTANCES)
    assert few["fid"] is None
    assert enough["fid"] == pytest.approx(0, abs=1e-3)
    assert few["kid"] is not None
    assert few["kid"] < 0.01
