"""What needs no link: help, arguments, names of files, pictures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from console.errors import UserError
from console.options import decibel_list
from console.outputs import Outputs, collect_images
from console.picture import Cell, Group, compose

Run = Callable[..., Any]


def test_help_loads_nothing_heavy() -> None:
    check = (
        "import sys, console.cli; "
        "print({'torch', 'grpc', 'numpy', 'PIL', 'pydantic', 'commin'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "command", [(), ("demo",), ("send",), ("serve",), ("serve", "channel"), ("train", "inn")]
)
def test_every_command_explains_itself(commin: Run, command: tuple[str, ...]) -> None:
    done = commin(*command, "--help")
    assert done.returncode == 0
    assert "usage" in done.stdout.lower()


def test_serve_takes_the_services_own_options(commin: Run) -> None:
    assert "--default-snr-db" in commin("serve", "channel", "--help").stdout
    unknown = commin("serve", "channel", "--colour", "red")
    assert unknown.returncode == 2
    assert "--colour" in unknown.stderr
    wrong = commin("serve", "channel", "--port", "70000")
    assert wrong.returncode == 1
    assert "port" in wrong.stderr
    assert "70000" in wrong.stderr
    unreadable = commin("serve", "channel", "--tls", "{")
    assert unreadable.returncode == 1
    assert "tls" in unreadable.stderr


@pytest.mark.parametrize("value", ["loud", "nan", "inf"])
def test_snr_must_be_a_number(commin: Run, faces: Path, value: str) -> None:
    done = commin("send", faces, "--snr", value)
    assert done.returncode == 2
    assert "--snr" in done.stderr
    assert value in done.stderr


def test_a_wrong_training_configuration_is_named(commin: Run, tmp_path: Path) -> None:
    config = Path(__file__).parents[2] / "training" / "configs" / "faces64.yaml"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(config.read_text().replace("power: 1.0", "power: -1"))
    data = ("--data", tmp_path, "--validation", tmp_path)
    done = commin("train", "jscc", "--config", wrong, *data)
    assert done.returncode == 1
    assert f"commin: {wrong}: power: " in done.stderr
    assert "got -1" in done.stderr
    absent = commin("train", "prior", "--config", tmp_path / "absent.yaml", *data)
    assert absent.returncode == 1
    assert "absent.yaml cannot be read" in absent.stderr


def test_decibel_lists() -> None:
    assert decibel_list("-5, 0,5.5") == [-5, 0, 5.5]
    with pytest.raises(typer.BadParameter, match="'' is not a number"):
        decibel_list("1,,2")


def test_images_are_files_as_they_are_and_folders_by_suffix(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", "deep/c.webp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = collect_images([tmp_path / "notes.txt", tmp_path])
    assert [path.name for path in found] == ["notes.txt", "a.png", "b.JPG", "c.webp"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no PNG, JPEG or WebP files"):
        collect_images([tmp_path / "empty"])


def test_names_stay_apart() -> None:
    images = [Path(name) for name in ("x/a.png", "y/a.jpg", "a-2.png", "b.png", "z/a.png")]
    assert Outputs(Path(), images).names == ["a", "a-2", "a-2-2", "b", "a-3"]


def test_picture_puts_each_image_in_its_place() -> None:
    colours = np.arange(1, 7).reshape(2, 3) * 40
    rows = [
        [Cell(np.full((8, 8, 3), colour, np.uint8), "words") for colour in line] for line in colours
    ]
    groups = [Group("", ["original"]), Group("-5 dB", ["decoded", "restored"])]
    image = np.asarray(compose(groups, rows, size=64).convert("L")).astype(int)
    centres = []
    for colour in colours.flat:
        down, across = (image == colour).nonzero()
        tall = np.bincount(down, minlength=len(image)) >= 64  # lines of the square, not of a letter
        wide = np.bincount(across, minlength=image.shape[1]) >= 64
        assert (tall.sum(), wide.sum()) == (64, 64)
        centres.append((tall.nonzero()[0].mean(), wide.nonzero()[0].mean()))
    down, across = np.array(centres).reshape(2, 3, 2).transpose(2, 0, 1)
    assert (down[0] == down[0, 0]).all()
    assert (down[1] > down[0] + 64).all()
    assert (np.diff(across, axis=1) >= 64).all()
    assert across[0, 1] - across[0, 0] > across[0, 2] - across[0, 1]  # groups stand apart
    with pytest.raises(ValueError, match="a row of 1 cells under 3 columns"):
        compose(groups, [[rows[0][0]]])
