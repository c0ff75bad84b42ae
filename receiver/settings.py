"""What the receiver can be set to."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from shared.settings import ServiceSettings, environment

Precision = Literal["auto", "fp32", "bf16"]


class ReceiverSettings(ServiceSettings):
    """Settings of the receiver; the environment's variables begin with COMMIN_RECEIVER_."""

    model_config = environment("COMMIN_RECEIVER_")

    bundle: Path = Field(description="Folder of the bundle")
    device: str = Field("auto", description='Where to compute: "auto", "cpu", "cuda", "cuda:1"…')
    threads: int | None = Field(None, ge=1, description="Threads of a network on the CPU")
    precision: Precision = Field(
        "auto", description="Of prior and INNs; auto: bf16 where that is measured to be faster"
    )
    compile: bool = Field(
        False, description="Compile the prior (a C++ compiler and minutes of the first frames)"
    )
    max_batch: int = Field(16, ge=1, le=1024, description="Most frames in work at the same time")
    queue_limit: int = Field(64, ge=1, le=65_536, description="Most frames waiting for work")
    default_restorer: str | None = Field(
        None, description="The restorer of frames that ask for none; unset: the bundle's best"
    )
    default_preview_every: int = Field(
        10, ge=0, le=1000, description="Steps between previews of frames that do not say; 0: none"
    )
