"""The attention-feature (AF) module, which lets one network serve a range of SNRs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SNR_SCALE_DB = 10.0  # brings the SNR to the size of the pooled features


class AFModule(nn.Module):
    """Gates each channel by the features' mean and the SNR.

    Global average pool, concatenated with the SNR, through two linear layers to a sigmoid gate
    per channel.

    Arguments:
        channels: Number of channels C.

    Source: Xu et al., "Wireless Image Transmission Using Deep Source Channel Coding With
    Attention Modules", IEEE TCSVT 2022.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 8)
        self.gate = nn.Sequential(
            nn.Linear(channels + 1, hidden),
            nn.LeakyReLU(inplace=True),
            nn.Linear(hidden, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor, snr_db: Tensor) -> Tensor:
        """Scales ``x`` of shape (B, C, H, W) for channel SNRs ``snr_db`` of shape (B,), in dB."""
        context = torch.cat([x.mean((2, 3)), snr_db[:, None] / SNR_SCALE_DB], dim=1)
        gate: Tensor = self.gate(context)
        return x * gate[:, :, None, None]
