"""The demo, as a stranger runs it: one command, three services, a picture."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from console.errors import UserError
from console.services import running_link

Run = Callable[..., Any]


def listens(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_demo(commin_process: Run, bundle: Path, faces: Path, tmp_path: Path) -> None:
    options = ("--bundle", bundle, "--steps", 3, "--snrs", "-5,5", "--out", tmp_path)
    done = commin_process("demo", *options, faces)
    assert done.returncode == 0
    picture = Image.open(tmp_path / "comparison.png")
    assert picture.width > 5 * 192  # the original, and two images for each of two SNRs
    assert picture.height > 3 * 192
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 1000
    for words in ("-5", "5", "LPIPS", "propagate", str(tmp_path / "comparison.png")):
        assert words in done.stdout
    [address] = [line.split()[-1] for line in done.stderr.splitlines() if "link is at" in line]
    assert not listens(address)


def test_a_demo_that_is_stopped_leaves_no_service(
    bundle: Path, faces: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "console", "demo", "--bundle", bundle, "--steps", "1000"]
    command += ["--restorer", "commin"]
    demo = subprocess.Popen(
        [*map(str, command), "--out", str(tmp_path), str(faces)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert demo.stderr
    address = ""
    for line in demo.stderr:
        if "link is at" in line:
            address = line.split()[-1]
            break
    assert listens(address)
    demo.send_signal(signal.SIGTERM)
    assert demo.wait(60) == 143
    demo.stderr.close()
    assert not listens(address)


@pytest.mark.parametrize(
    ("file", "complaint"),
    [("decoder.safetensors", "sha256"), ("bundle.json", "is invalid")],
)
def test_demo_says_what_is_wrong_with_a_bundle(
    commin: Run, bundle: Path, faces: Path, tmp_path: Path, file: str, complaint: str
) -> None:
    broken = tmp_path / "broken"
    for path in bundle.rglob("*"):
        if path.is_file():
            copy = broken / path.relative_to(bundle)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(
                path.read_bytes() + b" " * (path.name == file == "decoder.safetensors")
            )
    if file == "bundle.json":
        fields = json.loads((broken / file).read_text())
        (broken / file).write_text(json.dumps(fields | {"snr_range_db": "wide"}))
    done = commin("demo", "--bundle", broken, "--out", tmp_path / "out", faces)
    assert done.returncode == 1
    assert done.stderr.startswith(f"commin: bundle {broken}: ")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1
    with (
        pytest.raises(UserError, match=rf"the receiver did not start: .*{complaint}.*\(log: "),
        running_link(broken, tmp_path / "logs"),
    ):
        pass


def test_demo_needs_images_that_it_can_read(commin: Run, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "face.png").write_bytes(b"no image")
    done = commin("demo", "--bundle", bundle, "--out", tmp_path / "out", tmp_path / "face.png")
    assert done.returncode == 1
    assert f"{tmp_path / 'face.png'}: not a readable PNG, JPEG or WebP file" in done.stderr
    absent = commin("demo", "--bundle", bundle, "--out", tmp_path / "out", tmp_path / "nowhere")
    assert absent.returncode == 1
    assert absent.stderr == f"commin: {tmp_path / 'nowhere'} does not exist\n"
