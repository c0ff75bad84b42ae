"""A small training run for ``test_training_loop.py``, which kills it and starts it again.

Arguments: folder of images, folder of the run, file for the final weights.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file

from shared.architecture import JSCCArchitecture
from training.config import JSCCTraining, LoopSettings
from training.data import Images, ImageSource
from training.jscc import JSCC
from training.loop import train

data, run, weights = (Path(argument) for argument in sys.argv[1:])
torch.set_num_threads(1)
torch.manual_seed(0)
jscc = JSCCTraining(
    architecture=JSCCArchitecture(image_size=16, channels=(8, 8), symbols=16, attention_units=1),
    loop=LoopSettings(
        steps=40, batch=4, warmup=5, log_every=1, validate_every=20, checkpoint_minutes=1e-9
    ),
)
config: Any = SimpleNamespace(power=1.0, jscc=jscc)
trained = train(
    JSCC(config), Images(ImageSource(data), 16), jscc.loop, run, lambda *_: {"nothing": 0.0}
)
save_file({name: t.contiguous() for name, t in trained.state_dict().items()}, weights)
