"""A small training run for ``test_training_loop.py``, which kills it and starts it again.

Arguments: folder of images, folder of the run, file for the final weights, which loop.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from shared.architecture import JSCCArchitecture, StyleGAN2Architecture
from training.adversarial import GAN
from training.config import AdversarialSettings, JSCCTraining, LoopSettings, StyleGAN2Training
from training.data import Images, ImageSource
from training.jscc import JSCC
from training.loop import train
from training.stylegan2 import train as train_two

data, run, weights = (Path(argument) for argument in sys.argv[1:4])
torch.set_num_threads(1)
torch.manual_seed(0)
often: dict[str, Any] = {
    "steps": 40,
    "batch": 4,
    "log_every": 1,
    "validate_every": 20,
    "checkpoint_minutes": 1e-9,
}
images = Images(ImageSource(data), 16)


def validate(*_: object) -> dict[str, float]:
    return {"nothing": 0.0}


trained: nn.Module
if sys.argv[4] == "one":
    jscc = JSCCTraining(
        architecture=JSCCArchitecture(
            image_size=16, channels=(8, 8), symbols=16, attention_units=1
        ),
        loop=LoopSettings(warmup=5, **often),
    )
    config: Any = SimpleNamespace(power=1.0, jscc=jscc)
    trained = train(JSCC(config), images, jscc.loop, run, validate)
else:
    gan = StyleGAN2Training(
        architecture=StyleGAN2Architecture(latent=8, channels=(8, 6, 4)),
        discriminator=(8, 6, 4),
        loop=AdversarialSettings(path_every=3, r1_every=5, ada_images=100, **often),
    )
    trained, _ = train_two(GAN(gan), images, gan.loop, run, validate)
save_file({name: t.contiguous() for name, t in trained.state_dict().items()}, weights)
