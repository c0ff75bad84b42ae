"""A small StyleGAN-2 generator, the prior of InverseJSCC. Images are in [-1, 1].

Every weight is drawn from N(0, 1) and scaled when used ("equalised learning rate"), so that Adam's
steps are alike in size for all layers.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.architecture import StyleGAN2Architecture
from shared.weights import load_weights

MAPPING_RATE = 0.01  # the mapping network learns at a hundredth of the others' rate


class EqualLinear(nn.Module):
    """A dense layer of equalised learning rate.

    Arguments:
        inputs: Width of the input.
        outputs: Width of the output.
        bias: Initial value of the bias.
        rate: Learning rate relative to the other layers'.
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.rate = rate
        self.scale = rate / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(*, inputs) to (*, outputs)."""
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class EqualConv(nn.Module):
    """A convolution of equalised learning rate that keeps height and width, or doubles them.

    Doubling is a transposed convolution of stride 2 followed by the FIR filter [1, 3, 3, 1].
    """

    fir: Tensor

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, bias: bool = True, up: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.up = up
        if up:
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
            fir = torch.outer(taps, taps) / 16  # sums to 4: three of four inputs are zeros
            self.register_buffer("fir", fir.expand(outputs, 1, 4, 4).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W), or (B, outputs, 2H, 2W)."""
        weight = self.weight * self.scale
        if not self.up:
            return F.conv2d(x, weight, self.bias, padding="same")
        y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        return F.conv2d(y, self.fir, self.bias, padding=1, groups=len(self.fir))


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU with slope 0.2, scaled to keep the mean square of a unit normal near 1."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def upsample(x: Tensor) -> Tensor:
    """Twice the height and width, by the FIR filter [1, 3, 3, 1] of StyleGAN-2.

    Away from the border that filter is bilinear interpolation, which a library does faster.
    """
    return F.interpolate(x, scale_factor=2, mode="bilinear")


class ModulatedConv(nn.Module):
    r"""A convolution whose input channels an image's style scales, eqs. (1)-(3) of the source.

    .. math:: w'_{ijk} = s_i w_{ijk}, \quad
       w''_{ijk} = w'_{ijk} / \sqrt{\textstyle\sum_{i,k} w'^2_{ijk} + \epsilon}

    Scaling the input by :math:`s_i` and the output by the root is the same, and needs no weights
    of their own for each image.

    Arguments:
        inputs: Channels that enter.
        outputs: Channels that leave.
        kernel: Height and width of the kernel, odd.
        latent: Width of w.
        up: Whether height and width double.
        demodulate: Whether the output is brought back to unit variance, for input that has it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        latent: int,
        *,
        up: bool = False,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.style = EqualLinear(latent, inputs, bias=1.0)
        self.conv = EqualConv(inputs, outputs, kernel, bias=False, up=up)
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, inputs, H, W) and w, (B, latent), to (B, outputs, H, W) or twice the size."""
        style = self.style(w)
        y: Tensor = self.conv(x * style[:, :, None, None])
        if self.demodulate:
            energy = (self.conv.weight * self.conv.scale).square().sum((2, 3))
            y = y * (style.square() @ energy.T + 1e-8).rsqrt()[:, :, None, None]
        return y


class StyledConv(nn.Module):
    """A 3x3 modulated convolution, noise of learnt strength, bias and activation."""

    def __init__(self, inputs: int, outputs: int, latent: int, *, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, latent, up=up)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """``noise`` is N(0, 1), (B, 1, H, W) of the output: the same for all channels."""
        y = self.conv(x, w) + self.strength * noise + self.bias[:, None, None]
        return activate(y)


class Block(nn.Module):
    """The layers of one resolution; all but the first block begin by doubling it."""

    def __init__(self, inputs: int, outputs: int, latent: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.enter = None if first else StyledConv(inputs, outputs, latent, up=True)
        self.conv = StyledConv(outputs, outputs, latent)
        self.to_rgb = ModulatedConv(outputs, 3, 1, latent, demodulate=False)
        self.rgb_bias = nn.Parameter(torch.zeros(3))

    def forward(self, state: State, w: Tensor, noise: Tensor) -> State:
        """``noise`` is N(0, 1), (B, 2, H, W), a plane for each convolution."""
        x, image = state
        if self.enter is not None:
            x = self.enter(x, w, noise[:, :1])
        x = self.conv(x, w, noise[:, 1:])
        rgb = self.to_rgb(x, w) + self.rgb_bias[:, None, None]
        return State(x, rgb if self.first else upsample(image) + rgb)


class State(NamedTuple):
    """What passes from block to block: features, (B, C, H, W), and the image, (B, 3, H, W)."""

    features: Tensor
    image: Tensor


class StyleGAN2(nn.Module):
    """Mapping network and skip generator.

    Arguments:
        architecture: Sizes of the network, from the bundle.

    Attributes:
        w_mean: Running mean of w, (latent,), where optimisation starts.
    """

    w_mean: Tensor

    def __init__(self, architecture: StyleGAN2Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        latent, channels = architecture.latent, architecture.channels
        self.mapping = nn.ModuleList(
            EqualLinear(latent, latent, rate=MAPPING_RATE)
            for _ in range(architecture.mapping_layers)
        )
        self.constant = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        self.blocks = nn.ModuleList(
            Block(inputs, outputs, latent, first=index == 0)
            for index, (inputs, outputs) in enumerate(
                zip((channels[0], *channels), channels, strict=False)
            )
        )
        self.register_buffer("w_mean", torch.zeros(latent))

    @property
    def noise_shapes(self) -> list[tuple[int, int, int]]:
        """Shape of an image's noise for each block."""
        return [(2, size, size) for size in self.architecture.grids]

    def to_w(self, z: Tensor) -> Tensor:
        """The mapping network: z from N(0, I), (B, latent), to w, (B, latent)."""
        w = F.rms_norm(z, z.shape[-1:], eps=1e-8)
        for layer in self.mapping:
            w = activate(layer(w))
        return w

    def spread(self, w: Tensor) -> Tensor:
        """One w for all blocks: (B, latent) to (B, blocks, latent)."""
        return w[:, None].expand(-1, len(self.blocks), -1)

    def start(self, count: int) -> State:
        """The state before the first block, of ``count`` images."""
        features = self.constant.expand(count, -1, -1, -1)
        return State(features, features.new_zeros(count, 3, 4, 4))

    def run(self, state: State, w: Tensor, noise: list[Tensor], first: int, stop: int) -> State:
        """Takes a state through the blocks from ``first`` up to and without ``stop``.

        Arguments:
            state: What enters block ``first``.
            w: A style for each block of the network, (B, blocks, latent).
            noise: N(0, 1) for each block of the network, (B, 2, H, W).
            first: The first block to run.
            stop: One past the last.
        """
        for index in range(first, stop):
            state = self.blocks[index](state, w[:, index], noise[index])
        return state

    def images(self, state: State, w: Tensor, noise: list[Tensor], first: int = 0) -> Tensor:
        """The images, (B, 3, H, W), that come of a state that enters block ``first``."""
        return self.run(state, w, noise, first, len(self.blocks)).image

    def forward(self, w: Tensor, noise: list[Tensor]) -> Tensor:
        """Images, (B, 3, H, W), of w+, (B, blocks, latent); noise as for :meth:`run`."""
        return self.images(self.start(len(w)), w, noise)


def load_generator(
    architecture: StyleGAN2Architecture, path: Path, device: torch.device
) -> StyleGAN2:
    """Loads a generator in serving form.

    Raises:
        BundleError: If the file is not safetensors, or its names or shapes are not those of
            ``architecture``.
    """
    return load_weights(StyleGAN2(architecture), path, device)
