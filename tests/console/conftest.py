"""A whole bundle with tiny random networks, and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image

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


@pytest.fixture(scope="session")
def pixels() -> list[np.ndarray]:
    draws = np.random.default_rng(0)
    return [draws.integers(0, 256, (SIZE, SIZE, 3), np.uint8) for _ in range(3)]
