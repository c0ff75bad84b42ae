"""A whole bundle with tiny random networks, and images."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image

from console.cli import main
from console.services import Addresses, running_link
from receiver.decoder import Decoder
from receiver.inn import INN
from shared.architecture import INNArchitecture, JSCCArchitecture
from shared.bundle import write_manifest
from shared.weights import save_weights
from transmitter.encoder import Encoder

SIZE = 32
SAMPLES = Path(__file__).parents[2] / "models" / "faces64" / "samples"


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    torch.manual_seed(0)
    jscc = JSCCArchitecture(image_size=SIZE, channels=(8, 8), symbols=64, attention_units=1)
    inn = INNArchitecture(levels=1, lifts=1, width=8, snr_conditioned=True)
    prior = UNet2DModel(
        sample_size=SIZE // 2,
        in_channels=12,
        out_channels=12,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    save_weights(Encoder(jscc), folder / "encoder.safetensors")
    save_weights(Decoder(jscc), folder / "decoder.safetensors")
    save_weights(INN(inn), folder / "inn.safetensors")
    prior.save_pretrained(folder / "prior")
    write_manifest(
        folder,
        {
            "name": "tiny",
            "snr_range_db": (-5, 5),
            "jscc": {"architecture": jscc.model_dump()},
            "inns": [{"architecture": inn.model_dump(), "file": "inn.safetensors"}],
            "prior": {"patch_size": 2},
            "guidance": {"zeta_by_snr_db": {0: 0.1}},
        },
    )
    return folder


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
