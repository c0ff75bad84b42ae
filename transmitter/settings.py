"""What the transmitter can be set to."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from commin.transport import PLAINTEXT, TLSFiles
from shared.images import MAX_PIXELS
from shared.settings import SessionSettings, environment

# What a request holds besides its image.
ENVELOPE_BYTES = 2**15


class TransmitterSettings(SessionSettings):
    """Settings of the transmitter; the environment's variables begin with COMMIN_TRANSMITTER_."""

    model_config = environment("COMMIN_TRANSMITTER_")

    bundle: Path = Field(description="Folder of the bundle")
    device: str = Field("auto", description='Where to compute: "auto", "cpu", "cuda", "cuda:1"…')
    threads: int | None = Field(None, ge=1, description="Threads of a network on the CPU")
    channel: str = Field("127.0.0.1:50052", min_length=1, description="The channel's address")
    channel_tls: TLSFiles = Field(PLAINTEXT, description="How to call it; see TLSFiles")
    default_seed: int = Field(0, ge=0, lt=2**64, description="Seed of frames that set none")
    max_timeout_seconds: float = Field(
        3600.0, gt=0, le=86_400, description="Longest time that a frame may ask for"
    )
    max_image_bytes: int = Field(
        32 * 2**20, ge=1024, description="Largest image, as a file or as pixels"
    )
    max_pixels: int = Field(MAX_PIXELS, ge=1, description="Most pixels of an image")
    max_batch: int = Field(32, ge=1, le=1024, description="Most images in one run of the encoder")
    image_threads: int = Field(2, ge=1, le=256, description="Images decoded at the same time")

    @model_validator(mode="after")
    def _an_image_too_large_arrives(self) -> TransmitterSettings:
        """A message over its limit ends the stream; an image over its own costs only a frame."""
        if self.max_image_bytes + ENVELOPE_BYTES > self.max_message_bytes:
            raise ValueError(
                f"max_image_bytes {self.max_image_bytes} must be at least {ENVELOPE_BYTES} below "
                f"max_message_bytes {self.max_message_bytes}"
            )
        return self
