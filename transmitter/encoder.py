"""The DeepJSCC encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shared.architecture import JSCCArchitecture
from shared.bundle import Bundle
from shared.nn.af import AFModule
from shared.nn.attention import AttentionBlock
from shared.nn.linear import Analysis
from shared.nn.residual import ResidualDown, conv3x3
from shared.weights import load_weights
from transmitter.power import normalise_power


class Encoder(nn.Module):
    r"""Image to channel input, :math:`z = f(x; \theta)` with eq. (2) applied.

    Residual blocks with stride 2 and GDN, each followed by an AF module; attention blocks after
    every second stage (1/4 and 1/16 scale); a last convolution to ``c_out`` real channels. Where
    the architecture has a linear branch, its symbols are added before eq. (2).

    Arguments:
        architecture: Sizes of the network, from the bundle.
        power: The average power per symbol :math:`\bar P`, linear.

    Source: Chen et al., "CommIN", 2023, section 2 and its refs [6], [18].
    """

    def __init__(self, architecture: JSCCArchitecture, power: float = 1.0) -> None:
        super().__init__()
        self.power = power
        widths = architecture.channels
        self.stages = nn.ModuleList(
            ResidualDown(inputs, outputs)
            for inputs, outputs in zip((3, *widths), widths, strict=False)
        )
        self.gates = nn.ModuleList(AFModule(width) for width in widths)
        self.attention = nn.ModuleList(
            AttentionBlock(width, architecture.attention_units) if stage % 2 else nn.Identity()
            for stage, width in enumerate(widths)
        )
        self.head = conv3x3(widths[-1], architecture.c_out)
        self.linear: Analysis | None = None
        if architecture.linear:
            self.linear = Analysis(architecture.linear, 2 * architecture.symbols)
            nn.init.zeros_(self.head.weight)  # training starts from the linear scheme
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, snr_db: Tensor) -> Tensor:
        """Encodes a batch.

        Arguments:
            x: RGB in [0, 1] with shape (B, 3, H, W).
            snr_db: The channel SNR the transmitter is told, in dB, with shape (B,).

        Returns:
            Symbols of average power P, complex64, with shape (B, k); consecutive reals of the
            last layer pair as (I, Q).
        """
        features = 2 * x - 1
        for stage, gate, attention in zip(self.stages, self.gates, self.attention, strict=True):
            features = attention(gate(stage(features), snr_db))
        reals = self.head(features).float().flatten(1)
        if self.linear is not None:
            reals = reals + self.linear(x, snr_db)
        return normalise_power(torch.view_as_complex(reals.unflatten(1, (-1, 2))), self.power)


def load_encoder(bundle: Bundle, device: torch.device) -> Encoder:
    """Loads a bundle's encoder, ready to serve on ``device``.

    Raises:
        BundleError: If the file does not fit the architecture that the manifest states.
    """
    jscc = bundle.manifest.jscc
    encoder = Encoder(jscc.architecture, bundle.manifest.power)
    return load_weights(encoder, bundle.folder / jscc.encoder, device)
