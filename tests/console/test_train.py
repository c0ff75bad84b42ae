"""A bundle trained from nothing by the commands, then scored: the whole way, in miniature."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shared.bundle import Bundle

Run = Callable[..., Any]

CONFIG = """
name: mini
jscc:
  architecture: {image_size: 32, channels: [8, 8], symbols: 64, attention_units: 1}
  loop: &loop {steps: 2, batch: 2, validate_every: 2, warmup: 1}
inn:
  architecture: {levels: 1, lifts: 1, width: 8}
  snrs_db: [-5, 5]
  guidance: {zeta_by_snr_db: {0: 0.5}}
  loop: *loop
prior:
  patch_size: 2
  network:
    sample_size: 16
    in_channels: 12
    out_channels: 12
    layers_per_block: 1
    block_out_channels: [8, 8]
    down_block_types: [DownBlock2D, DownBlock2D]
    up_block_types: [UpBlock2D, UpBlock2D]
    norm_num_groups: 4
  loop: *loop
stylegan2:
  architecture: {latent: 8, mapping_layers: 2, channels: [8, 8, 8, 4]}
  discriminator: [8, 8, 8, 4]
  samples: 4
  loop: {steps: 2, batch: 2, validate_every: 2}
"""


@pytest.mark.slow
def test_the_commands_make_a_bundle(
    commin: Run, bundle: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mini.yaml").write_text(CONFIG)
    common = ("--config", "mini.yaml", "--data", faces, "--validation", faces)
    assert commin("train", "jscc", *common).returncode == 0
    early = Bundle.open("models/mini")
    assert commin("train", "inn", *common, "--inverse-weight", 0.25).returncode == 0
    assert commin("train", "prior", *common).returncode == 0
    manifest = Bundle.open("models/mini").manifest
    assert [part.snr_db for part in manifest.inns] == [-5, 5]
    assert manifest.training["inn"]["inverse_weight"] == 0.25
    assert Bundle.open("models/mini").codec_digest == early.codec_digest
    assert commin("train", "inn", *common, "--snr-conditioned").returncode == 0
    assert [part.snr_db for part in Bundle.open("models/mini").manifest.inns] == [None]

    guided = "snrs_db: [-5, 5]\n  guided: {perceptual_weight: 0.1}"
    Path("mini.yaml").write_text(CONFIG.replace("snrs_db: [-5, 5]", guided))
    assert commin("train", "inn", *common, "--snr-conditioned", "--runs", "guided").returncode == 0
    assert Bundle.open("models/mini").manifest.training["inn"]["guided"]["weight"] == 1
    papers = ("--snr-conditioned", "--runs", "papers", "--guided-weight", 0, "--steps", 1)
    assert commin("train", "inn", *common, *papers).returncode == 0
    assert Bundle.open("models/mini").manifest.training["inn"]["guided"] is None

    pretrained = CONFIG.replace("patch_size: 2", f"pretrained: {bundle / 'prior'}\n  patch_size: 2")
    Path("mini.yaml").write_text(pretrained)
    assert commin("train", "prior", *common).returncode == 0
    part = Bundle.open("models/mini").manifest.prior
    assert part is not None
    assert part.source == str(bundle / "prior")

    assert commin("train", "stylegan2", *common).returncode == 0
    assert commin("train", "stylegan2", *common, "--steps", 1).returncode == 0
    manifest = Bundle.open("models/mini").manifest
    assert manifest.generator is not None
    assert manifest.scores["stylegan2"]["images_seen"] == 4, "--steps 1 trained no further"

    options = ("--bundle", "models/mini", "--snrs", "0", "--steps", 2, "--json", "rows.json")
    restorers = ("--restorers", "none,inverse-jscc,commin")
    assert commin("evaluate", faces, *options, *restorers).returncode == 0
    rows = json.loads(Path("rows.json").read_text())
    assert [row["restorer"] for row in rows] == ["none", "inverse-jscc", "commin"]


@pytest.mark.slow
def test_training_that_was_killed_goes_on_with_the_loss_where_it_was(
    commin_process: Run, faces: Path, tmp_path: Path
) -> None:
    steps = 40
    often = f"{{steps: {steps}, batch: 2, log_every: 1, checkpoint_minutes: 1.0e-9}}"
    config = tmp_path / "mini.yaml"
    config.write_text(CONFIG.replace("{steps: 2, batch: 2, validate_every: 2, warmup: 1}", often))

    def command(name: str) -> tuple[object, ...]:
        folders = ("--runs", tmp_path / name, "--bundle", tmp_path / f"{name}-bundle")
        common = ("--config", config, "--data", faces, "--validation", faces)
        return ("train", "jscc", *common, *folders)

    assert commin_process(*command("whole")).returncode == 0
    arguments = [sys.executable, "-m", "console", *map(str, command("killed"))]
    process = subprocess.Popen(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while checkpointed(tmp_path / "killed") < 5:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resumed_from = checkpointed(tmp_path / "killed")
    assert 5 <= resumed_from < steps
    assert not (tmp_path / "killed-bundle").exists()
    assert commin_process(*command("killed")).returncode == 0

    whole, killed = (losses(tmp_path / name) for name in ("whole", "killed"))
    assert whole.keys() == set(range(1, steps + 1))
    assert set(range(resumed_from + 1, steps + 1)) <= killed.keys()
    for step, values in killed.items():  # a step that was lost is done again, to the same loss
        assert values == whole[step]
    for name in ("encoder", "decoder"):
        one, other = (tmp_path / f"{run}-bundle" / name for run in ("whole", "killed"))
        file = ".safetensors"
        assert one.with_suffix(file).read_bytes() == other.with_suffix(file).read_bytes()


def checkpointed(runs: Path) -> int:
    """Steps behind the newest checkpoint, which is swapped under the reader's feet."""
    for folder in ("checkpoint", "checkpoint.old"):
        try:
            progress = (runs / "mini" / "jscc" / folder / "progress.json").read_text()
        except FileNotFoundError:
            continue
        return int(json.loads(progress)["step"])
    return 0


def losses(runs: Path) -> dict[int, set[float]]:
    """What was logged as the loss of each step, by whichever process."""
    events = EventAccumulator(
        str(runs / "mini" / "jscc" / "tensorboard"), {"scalars": 0}, purge_orphaned_data=False
    )
    logged: dict[int, set[float]] = defaultdict(set)
    for event in events.Reload().Scalars("train/loss"):
        logged[event.step].add(event.value)
    return logged


def test_an_inn_needs_its_link(commin: Run, faces: Path, tmp_path: Path) -> None:
    config = tmp_path / "mini.yaml"
    config.write_text(CONFIG)
    common = ("--config", config, "--data", faces, "--validation", faces)
    done = commin("train", "inn", *common, "--bundle", tmp_path / "nowhere")
    assert done.returncode == 1
    assert f"commin: bundle {tmp_path / 'nowhere'}: no readable bundle.json" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("stylegan2:", "gan:", "gan: Extra inputs are not permitted"),
        ("channels: [8, 8, 8, 4]", "channels: [8, 8, 4]", "discriminator has 4 widths"),
        ("[8, 8, 8, 4]", "[8, 8, 8]", "stylegan2 makes images of 16 pixels, jscc takes 32"),
    ],
)
def test_wrong_sizes_of_the_gan_are_named(
    commin: Run, faces: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    config = tmp_path / "mini.yaml"
    config.write_text(CONFIG.replace(old, new))
    common = ("--config", config, "--data", faces, "--validation", faces)
    done = commin("train", "stylegan2", *common, "--bundle", tmp_path)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_configuration_may_have_no_gan(commin: Run, faces: Path, tmp_path: Path) -> None:
    config = tmp_path / "mini.yaml"
    config.write_text(CONFIG[: CONFIG.index("stylegan2:")])
    common = ("--config", config, "--data", faces, "--validation", faces)
    done = commin("train", "stylegan2", *common)
    assert done.returncode == 1
    assert "commin: the configuration has no section stylegan2" in done.stderr
