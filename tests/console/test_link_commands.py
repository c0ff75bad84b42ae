"""Commands that talk to a running link, against three real processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from console.services import Addresses
from evaluation.evaluate import read_frames
from evaluation.local_link import LocalLink, Settings
from shared.bundle import Bundle

Run = Callable[..., Any]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_send_saves_the_good_and_names_the_bad(
    commin_process: Run, link: str, bundle: Path, faces: Path, tmp_path: Path
) -> None:
    good = faces / "eileen-collins.png"
    bad = tmp_path / "not-a-photo.png"
    bad.write_text("hello")
    out = tmp_path / "out"
    options = ("--seed", 7, "--restorer", "commin", "--steps", 4, "--preview-every", 2)
    done = commin_process("send", good, bad, "--link", link, "--snr", "-5", *options, "--out", out)
    assert done.returncode == 1
    assert f"{bad}: INVALID_ARGUMENT: encoded: " in done.stderr
    assert "1 of 2 images did not come through" in done.stderr
    assert "eileen-collins" in done.stdout
    written = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert written - {"previews/eileen-collins-0000.png"} == {  # a newer preview may replace it
        "eileen-collins.decoded.png",
        "eileen-collins.restored.png",
        "previews/eileen-collins-0002.png",
    }
    # Frame 0 of seed 7, as evaluation computes it without the services.
    local = LocalLink(Bundle.open(bundle), torch.device("cpu"))
    frame = read_frames(faces, 32, 1)
    [expected] = local.send(frame, Settings("commin", snr_db=-5, seed=7, steps=4))
    for name, image in [("decoded", expected.decoded), ("restored", expected.restored)]:
        found = pixels(out / f"eileen-collins.{name}.png").astype(int)
        assert abs(found - image.astype(int)).max() <= 1


def test_send_takes_folders_and_keeps_equal_names_apart(
    commin: Run, link: str, faces: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (40, 40), (200, 0, 0)).save(other / "joe-biden.jpg")
    out = tmp_path / "out"
    done = commin("send", faces, other, "--link", link, "--restorer", "none", "--out", out)
    assert done.returncode == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{name}.{kind}.png"
        for name in ("eileen-collins", "grace-hopper", "joe-biden", "joe-biden-2")
        for kind in ("decoded", "restored")
    )


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--restorer", "magic"), "'magic'"),
        (("--told-snr", "17"), "17"),
        (("--snr", "1e6"), "1e+06"),
        (("--steps", "5000", "--restorer", "commin"), "5000"),
    ],
)
def test_send_says_what_an_option_may_be(
    commin: Run, link: str, faces: Path, tmp_path: Path, options: tuple[str, ...], complaint: str
) -> None:
    image = faces / "joe-biden.png"
    done = commin("send", image, "--link", link, *options, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert f"{image}: INVALID_ARGUMENT: options." in done.stderr
    assert complaint in done.stderr


def test_describe(commin: Run, link: str) -> None:
    text = commin("describe", "--link", link)
    assert text.returncode == 0
    assert "tiny: 32×32 pixels in k = 64 symbols (ρ = 0.0208), -5 to 5 dB" in text.stdout
    described = json.loads(commin("describe", "--link", link, "--json").stdout)
    assert described["receiver"]["bundle"]["name"] == "tiny"
    assert {"none", "commin"} <= {each["name"] for each in described["receiver"]["restorers"]}


def test_channel_shows_and_sets_the_default(
    commin: Run, services: Addresses, faces: Path, tmp_path: Path
) -> None:
    address = ("--address", services.channel)
    assert "awgn at 0 dB" in commin("channel", *address).stdout
    try:
        assert "awgn at -2.5 dB" in commin("channel", *address, "--snr", "-2.5").stdout
        described = commin("describe", "--link", services.transmitter)
        assert "-2.5 dB" in described.stdout
    finally:
        commin("channel", *address, "--snr", 0)
    refused = commin("channel", *address, "--snr", 1000)
    assert refused.returncode == 1
    assert "1000" in refused.stderr
    assert "awgn at 0 dB" in commin("channel", *address).stdout


def test_nothing_listens(commin: Run, faces: Path, tmp_path: Path) -> None:
    done = commin("send", faces, "--link", "127.0.0.1:1", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("commin: nothing answers at 127.0.0.1:1")
    assert not (tmp_path / "out").exists()
