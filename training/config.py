"""What a training run is made of, read from ``training/configs/*.yaml`` and validated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from shared.architecture import (
    Frozen,
    INNArchitecture,
    JSCCArchitecture,
    StyleGAN2Architecture,
)
from shared.bundle import FastSampling, Guidance


class RunSettings(Frozen):
    """What every training loop has."""

    steps: PositiveInt
    batch: PositiveInt = Field(default=32, description="Images per step and process")
    learning_rate: PositiveFloat = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = Field(default=0.998, ge=0, lt=1)
    bf16: bool = Field(default=False, description="bf16 autocast; only where it is faster")
    workers: NonNegativeInt = Field(default=0, description="Decoding processes")
    seed: NonNegativeInt = 0
    log_every: PositiveInt = 20
    validate_every: PositiveInt = 1000
    checkpoint_minutes: PositiveFloat = 4.0


class LoopSettings(RunSettings):
    """Settings of :func:`training.loop.train`."""

    weight_decay: float = Field(default=1e-4, ge=0)
    warmup: NonNegativeInt = Field(default=200, description="Steps of linear warm-up")
    decay: float = Field(default=0.6, ge=0, le=1, description="Last part of the run that decays")
    clip: PositiveFloat = Field(default=1.0, description="Largest gradient norm")


class AdversarialSettings(RunSettings):
    """Settings of :func:`training.adversarial.train`."""

    betas: tuple[float, float] = (0.0, 0.99)
    learning_rate: PositiveFloat = 2.5e-3
    r1_weight: float = Field(default=1.0, ge=0, description="gamma of the R1 penalty")
    r1_every: PositiveInt = Field(default=16, description="Steps between R1 penalties")
    path_weight: float = Field(default=2.0, ge=0, description="Weight of path-length regularity")
    path_every: PositiveInt = Field(default=8, description="Steps between path-length penalties")
    path_shrink: PositiveInt = Field(default=2, description="Divides the batch of that penalty")
    mixing: float = Field(default=0.9, ge=0, le=1, description="Images made with two styles")
    ada_target: float = Field(default=0.6, description="Mean of sign(D(real)) to hold")
    ada_images: PositiveInt = Field(
        default=500_000, description="So many images take the augmentation from 0 to 1 at most"
    )


class JSCCTraining(Frozen):
    """How the encoder and decoder are trained, eq. (6)."""

    architecture: JSCCArchitecture
    snr_range_db: tuple[float, float] = (-5.0, 5.0)
    loop: LoopSettings


class GuidedLoss(Frozen):
    """The loss on estimates that the prior makes; see :class:`training.guided.GuidedInverse`."""

    weight: PositiveFloat = Field(default=1.0, description="Against that of (9), which is 1")
    perceptual_weight: float = Field(
        default=0.0, ge=0, description="w_p, of LPIPS (alex) against the squared error"
    )
    start: PositiveInt = Field(
        default=500, le=1000, description="Latest time t that a decoded image is noised to"
    )
    power: PositiveFloat = Field(
        default=1.0,
        description="p of the times T u^p, u uniform, that an estimate is noised to once more; "
        "2 has them as dense as Algorithm 1's",
    )


class INNTraining(Frozen):
    """How the invertible networks are trained, eq. (9)."""

    architecture: INNArchitecture
    snrs_db: tuple[float, ...] = Field(
        default=(-5.0, -3.0, -1.0, 1.0, 3.0, 5.0),
        description="One network for each, unless the architecture is conditioned on the SNR",
    )
    inverse_weight: float = Field(
        default=0.0, ge=0, description="Weight of |INN^-1(y, d(x)) - x|^2; 0 is the paper's loss"
    )
    guided: GuidedLoss | None = Field(
        default=None, description="A loss on the prior's estimates; None is the paper's training"
    )
    guidance: Guidance
    fast: dict[str, FastSampling] = Field(
        default={"commin-fast": FastSampling()}, description="Presets of the fast sampler"
    )
    loop: LoopSettings


class PriorTraining(Frozen):
    """How the diffusion prior is trained, the DDPM loss."""

    network: dict[str, Any] = Field(description="Arguments of diffusers.UNet2DModel")
    patch_size: PositiveInt = 1
    min_snr_gamma: PositiveFloat | None = Field(
        default=None, description="gamma of min-SNR weighting; None weights all times alike"
    )
    pretrained: str | None = Field(
        default=None, description="A diffusers folder or hub id that is used as it is"
    )
    loop: LoopSettings


class StyleGAN2Training(Frozen):
    """How the generator of InverseJSCC is trained."""

    architecture: StyleGAN2Architecture
    discriminator: tuple[PositiveInt, ...] = Field(
        min_length=1, description="Widths of the discriminator, from 4x4 pixels up to the image"
    )
    samples: PositiveInt = Field(
        default=2000, ge=2, description="Images that the Fréchet distance is taken over"
    )
    loop: AdversarialSettings

    @model_validator(mode="after")
    def _same_size(self) -> StyleGAN2Training:
        if len(self.discriminator) != len(self.architecture.channels):
            raise ValueError(
                f"discriminator has {len(self.discriminator)} widths, "
                f"the generator's channels {len(self.architecture.channels)}"
            )
        return self


class TrainingConfig(Frozen):
    """A bundle's name and the training of each of its parts."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    power: PositiveFloat = Field(default=1.0, description="Average symbol power P, linear")
    jscc: JSCCTraining
    inn: INNTraining
    prior: PriorTraining
    stylegan2: StyleGAN2Training | None = Field(
        default=None, description="None where there is no InverseJSCC to compare with"
    )

    @model_validator(mode="after")
    def _images_have_one_size(self) -> TrainingConfig:
        size = self.jscc.architecture.image_size
        if self.stylegan2 and (other := self.stylegan2.architecture.image_size) != size:
            raise ValueError(f"stylegan2 makes images of {other} pixels, jscc takes {size}")
        return self

    @classmethod
    def read(cls, path: Path) -> TrainingConfig:
        """Reads a YAML file; pydantic's error names each wrong field."""
        return cls.model_validate(yaml.safe_load(path.read_text()))
