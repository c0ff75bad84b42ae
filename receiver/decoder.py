"""The DeepJSCC decoder."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared.architecture import JSCCArchitecture
from shared.nn.af import AFModule
from shared.nn.attention import AttentionBlock
from shared.nn.linear import Synthesis
from shared.nn.residual import ResidualUp, conv3x3, subpixel3x3


class Decoder(nn.Module):
    r"""Channel output to image, :math:`y = g(\hat z; \phi)`.

    Mirrors the encoder: attention blocks at 1/16 and 1/4 scale, AF modules, residual upsampling
    with inverse GDN, a sigmoid at the end. Where the architecture has a linear branch, its
    thumbnail joins the features at every scale and the output, before the sigmoid.

    Arguments:
        architecture: Sizes of the network, from the bundle.

    Source: Chen et al., "CommIN", 2023, section 2 and its refs [6], [18].
    """

    def __init__(self, architecture: JSCCArchitecture) -> None:
        super().__init__()
        widths = architecture.channels[::-1]
        self.grid = architecture.grid
        self.c_out = architecture.c_out
        self.stem = conv3x3(self.c_out, widths[0])
        self.gates = nn.ModuleList(AFModule(width) for width in widths)
        self.attention = nn.ModuleList(
            AttentionBlock(width, architecture.attention_units)
            if (len(widths) - stage) % 2 == 0
            else nn.Identity()
            for stage, width in enumerate(widths)
        )
        self.stages = nn.ModuleList(
            ResidualUp(inputs, outputs) for inputs, outputs in pairwise(widths)
        )
        self.stages.append(subpixel3x3(widths[-1], 3))
        self.linear: Synthesis | None = None
        if architecture.linear:
            size = architecture.linear.thumbnail
            self.linear = Synthesis(architecture.linear, 2 * architecture.symbols)
            self.joins = nn.ModuleList(
                conv3x3(3 * (size // grid) ** 2, width) if grid <= size else nn.Identity()
                for grid, width in zip(architecture.decoder_grids, widths, strict=True)
            )

    def forward(self, z: Tensor, snr_db: Tensor) -> Tensor:
        """Decodes a batch.

        Arguments:
            z: Channel output, complex64, with shape (B, k).
            snr_db: The channel SNR the receiver is told, in dB, with shape (B,).

        Returns:
            Decoded images y, RGB in [0, 1], with shape (B, 3, H, W).
        """
        reals = torch.view_as_real(z).flatten(1)
        features = self.stem(reals.unflatten(1, (self.c_out, self.grid, self.grid)))
        thumbnail = None if self.linear is None else self.linear(reals, snr_db)
        for i, (stage, gate, attention) in enumerate(
            zip(self.stages, self.gates, self.attention, strict=True)
        ):
            if thumbnail is not None and features.shape[-1] <= thumbnail.shape[-1]:
                scale = thumbnail.shape[-1] // features.shape[-1]
                features = features + self.joins[i](F.pixel_unshuffle(2 * thumbnail - 1, scale))
            features = stage(gate(attention(features), snr_db))
        logits = features.float()
        if thumbnail is not None:
            enlarged = F.interpolate(thumbnail, size=logits.shape[2:], mode="bicubic")
            logits = logits + torch.logit(enlarged, eps=0.01)
        return torch.sigmoid(logits)
