"""Sizes of the networks, as a bundle states them. Needs no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class Frozen(BaseModel):
    """A value object that rejects unknown fields, so that a typo in a file is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LinearBranch(Frozen):
    """A dense path beside the convolutions, from a thumbnail to all symbols and back."""

    thumbnail: PositiveInt = Field(description="H = W of the thumbnail, pixels")
    snr_grid_db: tuple[float, ...] = Field(
        default=(-5.0, -3.0, -1.0, 1.0, 3.0, 5.0),
        min_length=2,
        description="SNRs, rising, between which its gains are interpolated",
    )


class JSCCArchitecture(Frozen):
    """Sizes of the DeepJSCC encoder and decoder.

    The paper's: ``image_size=256, channels=(256,) * 4, symbols=256``, which gives ``c_out = 2``.
    """

    image_size: PositiveInt = Field(description="H = W of the images, pixels")
    channels: tuple[PositiveInt, ...] = Field(
        min_length=1, description="Width of each stride-2 stage, from the image down"
    )
    symbols: PositiveInt = Field(description="k, complex channel uses per image")
    attention_units: PositiveInt = Field(
        default=3, description="Residual units per branch of an attention block"
    )
    linear: LinearBranch | None = Field(default=None, description="None is the paper's network")

    @model_validator(mode="after")
    def _sizes_agree(self) -> JSCCArchitecture:
        scale = 2 ** len(self.channels)
        if self.image_size % scale:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of {scale}, "
                f"which {len(self.channels)} stride-2 stages need"
            )
        if 2 * self.symbols % self.grid**2:
            raise ValueError(
                f"2 * symbols = {2 * self.symbols} reals do not fill a "
                f"{self.grid} x {self.grid} grid evenly"
            )
        if self.linear and self.linear.thumbnail not in self.decoder_grids:
            raise ValueError(
                f"thumbnail {self.linear.thumbnail} is none of the decoder's grids, "
                f"{self.decoder_grids}"
            )
        return self

    @property
    def grid(self) -> int:
        """Height and width of the innermost features."""
        return int(self.image_size // 2 ** len(self.channels))

    @property
    def decoder_grids(self) -> tuple[int, ...]:
        """Height and width of the features that enter each stage of the decoder, rising."""
        return tuple(self.grid * 2**stage for stage in range(len(self.channels)))

    @property
    def c_out(self) -> int:
        """Real channels of the innermost features: 2k / grid^2."""
        return int(2 * self.symbols // self.grid**2)

    @property
    def bandwidth_ratio(self) -> float:
        """rho = k / m with m = 3 H W source values."""
        return float(self.symbols / (3 * self.image_size**2))


class INNArchitecture(Frozen):
    """Sizes of the invertible network, Fig. 3."""

    levels: PositiveInt = Field(default=2, description="L; the coarse part is at H / 2^L")
    lifts: PositiveInt = Field(default=2, description="PNet/UNet pairs per level")
    width: PositiveInt = Field(default=32, description="Channels inside PNet and UNet")
    blocks: PositiveInt = Field(default=1, description="Residual blocks in PNet and UNet")
    patch_size: PositiveInt = Field(
        default=1,
        description="Pixel-unshuffle factor around PNet and UNet: wider sight at the same cost",
    )
    snr_conditioned: bool = Field(default=False, description="One network for all SNRs")


class StyleGAN2Architecture(Frozen):
    """Sizes of the StyleGAN-2 generator. Its blocks are at 4x4 pixels, 8x8 and so on."""

    latent: PositiveInt = Field(default=128, description="Width of z and w")
    mapping_layers: PositiveInt = Field(default=4, description="Layers from z to w")
    channels: tuple[PositiveInt, ...] = Field(
        min_length=1, description="Width of each block, from 4x4 pixels up to the image"
    )

    @property
    def grids(self) -> tuple[int, ...]:
        """Height and width of each block's features, rising."""
        return tuple(4 * 2**block for block in range(len(self.channels)))

    @property
    def image_size(self) -> int:
        """H = W of the images, pixels."""
        return self.grids[-1]
