"""The diffusion prior: any ε-predicting ``diffusers.UNet2DModel``."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from shared.bundle import BundleError
from shared.weights import ready


class Prior(nn.Module):
    r"""Predicts the noise :math:`\epsilon_\theta(x_t, t)` of an image in [-1, 1].

    Arguments:
        network: The U-Net, over 3 p^2 channels.
        patch_size: p; the network runs on the image's p x p pixel-unshuffle, an H/p grid. It is
            the same DDPM in pixel space.
    """

    def __init__(self, network: UNet2DModel, patch_size: int = 1) -> None:
        super().__init__()
        channels = network.config["in_channels"]
        if channels != 3 * patch_size**2:
            raise ValueError(
                f"the prior takes {channels} channels, patch_size {patch_size} gives "
                f"{3 * patch_size**2}"
            )
        self.network = network
        self.patch_size = patch_size

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Noise in ``x`` of shape (B, 3, H, W) at times ``t`` of shape (B,), 1 to 1000."""
        patches = F.pixel_unshuffle(x, self.patch_size).contiguous(
            memory_format=torch.channels_last
        )
        # diffusers counts times from 0.
        epsilon = self.network(patches, t - 1, return_dict=False)[0]
        return F.pixel_shuffle(epsilon, self.patch_size)


def load_prior(source: Path | str, patch_size: int, device: torch.device) -> Prior:
    """Loads a diffusers folder or hub id.

    Raises:
        BundleError: If there is no such model or it does not fit ``patch_size``.
    """
    try:
        network = UNet2DModel.from_pretrained(str(source), torch_dtype=torch.float32)
        return ready(Prior(network, patch_size), device)
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(f"prior {source} cannot be loaded: {error}") from error
