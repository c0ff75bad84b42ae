"""Images, the command, and a running link."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from console.cli import main
from console.services import Addresses, running_link

SAMPLES = Path(__file__).parents[2] / "models" / "faces64" / "samples"


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three small photographs."""
    folder = tmp_path_factory.mktemp("faces")
    for name in ("eileen-collins", "grace-hopper", "joe-biden"):
        with Image.open(SAMPLES / f"{name}.png") as image:
            image.resize((48, 40)).save(folder / f"{name}.png")
    return folder


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def commin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process, which has its imports behind it."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["commin", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as error:
            if isinstance(error.code, str):  # as the interpreter does
                print(error.code, file=sys.stderr)
            code = 1 if isinstance(error.code, str) else int(error.code or 0)
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def commin_process() -> Run:
    """Runs the command in a process of its own, and shows what it said when a test fails."""

    def run(*arguments: object) -> Done:
        command = [sys.executable, "-m", "console", *map(str, arguments)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
        print(f"$ commin {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
        assert "Traceback" not in done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def services(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """A link of three processes that tests share."""
    with running_link(bundle, tmp_path_factory.mktemp("logs")) as addresses:
        yield addresses


@pytest.fixture(scope="session")
def link(services: Addresses) -> str:
    """The address that clients send to."""
    return services.transmitter
