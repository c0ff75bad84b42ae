"""The DeepJSCC decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shared.architecture import JSCCArchitecture
from shared.nn.af import AFModule
from shared.nn.attention import AttentionBlock
from shared.nn.residual import ResidualUp, conv3x3, subpixel3x3


class Decoder(nn.Module):
    r"""Channel output to image, :math:`y = g(\hat z; \phi)`.

    Mirrors the encoder: attention blocks at 1/16 and 1/4 scale, AF modules, residual upsampling
    with inverse GDN, a sigmoid at the end.

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
            ResidualUp(inputs, outputs) for inputs, outputs in zip(widths, widths[1:], strict=False)
        )
        self.stages.append(subpixel3x3(widths[-1], 3))

    def forward(self, z: Tensor, snr_db: Tensor) -> Tensor:
        """Decodes a batch.

        Arguments:
            z: Channel output, complex64, with shape (B, k).
            snr_db: The channel SNR the receiver is told, in dB, with shape (B,).

        Returns:
            Decoded images y, RGB in [0, 1], with shape (B, 3, H, W).
        """
        features = torch.view_as_real(z).flatten(1)
        features = self.stem(features.unflatten(1, (self.c_out, self.grid, self.grid)))
        for stage, gate, attention in zip(self.stages, self.gates, self.attention, strict=True):
            features = stage(gate(attention(features), snr_db))
        return torch.sigmoid(features.float())
