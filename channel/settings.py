"""What the channel can be set to."""

from __future__ import annotations

from pydantic import Field, model_validator

from commin.transport import PLAINTEXT, TLSFiles
from shared.settings import SessionSettings, environment


class ChannelSettings(SessionSettings):
    """Settings of the channel; the environment's variables begin with COMMIN_CHANNEL_."""

    model_config = environment("COMMIN_CHANNEL_")

    receiver: str = Field(
        "127.0.0.1:50053",
        min_length=1,
        description="The receiver's address; frames are spread over all that the name resolves to",
    )
    receiver_tls: TLSFiles = Field(PLAINTEXT, description="How to call it; see TLSFiles")
    default_snr_db: float = Field(
        0.0, allow_inf_nan=False, description="The SNR of frames that set none, dB"
    )
    min_snr_db: float = Field(-30.0, allow_inf_nan=False, description="Lowest SNR, dB")
    max_snr_db: float = Field(60.0, allow_inf_nan=False, description="Highest SNR, dB")
    max_symbols: int = Field(2**22, ge=1, description="Most complex symbols of a frame")
    noise_threads: int = Field(2, ge=1, le=256, description="Frames given noise at the same time")

    @model_validator(mode="after")
    def _snrs_agree(self) -> ChannelSettings:
        if not self.min_snr_db <= self.default_snr_db <= self.max_snr_db:
            raise ValueError(
                f"default_snr_db {self.default_snr_db:g} must lie between "
                f"min_snr_db {self.min_snr_db:g} and max_snr_db {self.max_snr_db:g}"
            )
        return self
