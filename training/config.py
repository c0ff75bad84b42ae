"""What a training run is made of, read from ``training/configs/*.yaml`` and validated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from shared.architecture import Frozen, INNArchitecture, JSCCArchitecture
from shared.bundle import Guidance


class LoopSettings(Frozen):
    """Settings of :func:`training.loop.train`."""

    steps: PositiveInt
    batch: PositiveInt = Field(default=32, description="Images per step and process")
    learning_rate: PositiveFloat = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup: NonNegativeInt = Field(default=200, description="Steps of linear warm-up")
    decay: float = Field(default=0.6, ge=0, le=1, description="Last part of the run that decays")
    clip: PositiveFloat = Field(default=1.0, description="Largest gradient norm")
    ema: float = Field(default=0.998, ge=0, lt=1)
    bf16: bool = Field(default=False, description="bf16 autocast; only where it is faster")
    workers: NonNegativeInt = Field(default=0, description="Decoding processes")
    seed: NonNegativeInt = 0
    log_every: PositiveInt = 20
    validate_every: PositiveInt = 1000
    checkpoint_minutes: PositiveFloat = 4.0


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
        default=400, ge=20, le=880, description="Time t that the fast sampler starts at"
    )
    follow: float = Field(
        default=0.5, ge=0, le=1, description="Part of a batch that follows the fast sampler"
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


class TrainingConfig(Frozen):
    """A bundle's name and the training of each of its parts."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    power: PositiveFloat = Field(default=1.0, description="Average symbol power P, linear")
    jscc: JSCCTraining
    inn: INNTraining
    prior: PriorTraining

    @classmethod
    def read(cls, path: Path) -> TrainingConfig:
        """Reads a YAML file; pydantic's error names each wrong field."""
        return cls.model_validate(yaml.safe_load(path.read_text()))
