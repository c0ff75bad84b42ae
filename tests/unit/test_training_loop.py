"""A training run may be killed at any moment: started again, it ends where it would have."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from training.config import LoopSettings
from training.loop import augment, learning_rate_factor, step_generator

SCRIPT = Path(__file__).with_name("resumable_run.py")
STEPS = 40


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(10):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


Start = Callable[[Path, Path], "subprocess.Popen[bytes]"]


@pytest.fixture(params=["one", "two"])
def start(request: pytest.FixtureRequest, faces: Path) -> Start:
    """Starts a run with one network to train, or with two that take turns."""

    def started(run: Path, weights: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, SCRIPT, faces, run, weights, request.param]
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    return started


def run_to_the_end(start: Start, run: Path, weights: Path) -> dict[str, torch.Tensor]:
    process = start(run, weights)
    process.communicate()
    assert process.returncode == 0
    return load_file(weights)


def steps_done(run: Path) -> int:
    """What a reader of the run finds at this moment; checkpoints are swapped under its feet."""
    for folder in ("checkpoint", "checkpoint.old"):
        try:
            return int(json.loads((run / folder / "progress.json").read_text())["step"])
        except FileNotFoundError:
            continue
    return 0


def kill_at(step: int, start: Start, run: Path, weights: Path) -> None:
    process = start(run, weights)
    while steps_done(run) < step:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.001)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(
    start: Start, tmp_path: Path
) -> None:
    whole = run_to_the_end(start, tmp_path / "whole", tmp_path / "whole.safetensors")

    killed, weights = tmp_path / "killed", tmp_path / "killed.safetensors"
    for step in (3, 11, 24):
        kill_at(step, start, killed, weights)
        assert step <= steps_done(killed) < STEPS
    resumed = run_to_the_end(start, killed, weights)

    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0, msg=name)
    assert steps_done(killed) == STEPS
    assert not (killed / "checkpoint.old").exists()


def test_the_draws_of_a_step_are_its_own() -> None:
    def draws(*key: int) -> list[float]:
        return torch.rand(4, generator=step_generator(*key)).tolist()

    assert draws(0, 5) == draws(0, 5)
    keys = [(seed, step, rank) for seed in (0, 1) for step in (0, 1, 2) for rank in (0, 1)]
    assert len({tuple(draws(*key)) for key in keys}) == len(keys)


def test_the_learning_rate_warms_up_holds_and_falls() -> None:
    settings = LoopSettings(steps=1000, warmup=100, decay=0.5)
    factors = [learning_rate_factor(step, settings) for step in range(1000)]
    assert factors[0] == pytest.approx(0.01)
    assert factors[99:501] == [1.0] * 402
    assert factors[750] == pytest.approx(0.5)
    assert factors[999] == pytest.approx(0.02)
    assert factors[99:] == sorted(factors[99:], reverse=True)


def test_augmentation_mirrors_half_of_the_images_left_to_right() -> None:
    x = torch.arange(2000.0).reshape(1000, 1, 1, 2)
    mirrored = augment(x, step_generator(0, 0))
    swapped = (mirrored != x).all(dim=(1, 2, 3))
    assert 400 < int(swapped.sum()) < 600
    torch.testing.assert_close(mirrored[swapped], x[swapped].flip(-1))
    torch.testing.assert_close(mirrored[~swapped], x[~swapped])
    torch.testing.assert_close(augment(x, step_generator(0, 0)), mirrored)
