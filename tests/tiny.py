"""Networks of random weights that compute in milliseconds, and a bundle of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import UNet2DModel

from receiver.decoder import Decoder
from receiver.inn import INN
from receiver.models import ReceiverModels
from receiver.prior import Prior
from shared.architecture import INNArchitecture, JSCCArchitecture
from shared.bundle import FastSampling, Guidance, write_manifest
from shared.weights import ready, save_weights
from transmitter.encoder import Encoder

CPU = torch.device("cpu")
SIZE, SYMBOLS = 32, 64

# As in the bundle that ships, no step goes beyond where the residual would vanish. Random networks
# reach that point, and a step of fixed length then jumps to and fro across it: the gradient of an
# un-squared norm keeps its length there, and round-off decides its direction. Such steps make a
# difference of 1e-6 at the start 200 000 times as large in 60 steps, bounded ones twice as large;
# test_commin.py asserts the latter. Only so can images be compared that met other batch mates.
GUIDANCE = Guidance(bounded=True, zeta_by_snr_db={0.0: 0.1})

INN_SIZES = INNArchitecture(levels=1, lifts=1, width=8, snr_conditioned=True)


def jscc_sizes(image_size: int = SIZE) -> JSCCArchitecture:
    """Of an encoder and a decoder with k = ``image_size``² / 16."""
    return JSCCArchitecture(
        image_size=image_size, channels=(8, 8), symbols=image_size**2 // 16, attention_units=1
    )


def make_inn(sizes: INNArchitecture = INN_SIZES, std: float = 0.05) -> INN:
    """With all parameters from N(0, ``std``²); 0 leaves the plain split."""
    torch.manual_seed(0)
    inn = INN(sizes)
    for parameter in inn.parameters() if std else ():
        torch.nn.init.normal_(parameter, std=std)
    return ready(inn, CPU)


def make_unet(image_size: int = SIZE, attention: bool = False) -> UNet2DModel:
    """The prior's network, which takes each 2x2 block of an image as one pixel."""
    torch.manual_seed(1)
    inner = "Attn" if attention else ""
    return UNet2DModel(
        sample_size=image_size // 2,
        in_channels=12,
        out_channels=12,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", f"{inner}DownBlock2D"),
        up_block_types=(f"{inner}UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    )


def make_prior(image_size: int = SIZE, attention: bool = False) -> Prior:
    """The same as a prior of images."""
    return ready(Prior(make_unet(image_size, attention), 2), CPU)


def make_models(
    image_size: int = SIZE,
    inn: INN | None = None,
    guidance: Guidance = GUIDANCE,
    fast: Mapping[str, FastSampling] = {},
    attention: bool = False,
) -> ReceiverModels:
    """All that a receiver has but a generator; the same INN serves every SNR."""
    inn = inn or make_inn()
    sizes = jscc_sizes(image_size)
    torch.manual_seed(2)
    return ReceiverModels(
        device=CPU,
        symbols=sizes.symbols,
        decoder=ready(Decoder(sizes), CPU),
        inns={None if inn.conditioned else 0.0: inn},
        prior=make_prior(image_size, attention),
        guidance=guidance,
        fast=fast,
    )


def make_bundle(folder: Path) -> Path:
    """Writes a whole bundle named "tiny", whose INN is the plain split."""
    sizes = jscc_sizes()
    make_unet().save_pretrained(folder / "prior")
    torch.manual_seed(2)
    save_weights(Encoder(sizes), folder / "encoder.safetensors")
    save_weights(Decoder(sizes), folder / "decoder.safetensors")
    save_weights(make_inn(std=0), folder / "inn.safetensors")
    write_manifest(
        folder,
        {
            "name": "tiny",
            "snr_range_db": (-5, 5),
            "jscc": {"architecture": sizes.model_dump()},
            "inns": [{"architecture": INN_SIZES.model_dump(), "file": "inn.safetensors"}],
            "prior": {"patch_size": 2},
            "guidance": GUIDANCE.model_dump(),
        },
    )
    return folder
