"""Features of Inception-v3, for FID and KID, with weights that the user has."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

BATCH = 16  # images; at 299 x 299 pixels the first layers take 5 MB each


class InceptionError(ValueError):
    """Inception-v3 cannot be had; says what is missing or wrong."""


class InceptionFeatures(nn.Module):
    """Image features for FID and KID: Inception-v3's last pooling.

    Takes RGB in [0, 1], (B, 3, H, W), and gives (B, 2048). Network, resizing and format of the
    weights are torch-fidelity's, whose figures are those of the original TensorFlow code if the
    weights are converted from that (``weights-inception-2015-12-05-6726825d.pth``).

    Arguments:
        weights: A state dict that ``torch.save`` wrote; nothing is ever downloaded.

    Raises:
        InceptionError: If torch-fidelity is not installed, or the file is missing or is no state
            dict of this network.
    """

    num_features = 2048

    def __init__(self, weights: Path) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            needed = "FID and KID need torch-fidelity: pip install 'commin[fid]'"
            raise InceptionError(needed) from error
        _check(weights)
        try:
            self.network = FeatureExtractorInceptionV3("inception-v3", ["2048"], str(weights))
        except RuntimeError as error:  # torch lists every name and shape
            raise InceptionError(
                f"Inception weights {weights}: not a state dict of torch-fidelity's Inception-v3"
            ) from error

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        (features,) = self.network((255 * x).round().byte())
        assert isinstance(features, Tensor)
        return features


def _check(weights: Path) -> None:
    """Reads the file once without running what is in it, as the library's own loader would."""
    try:
        found = torch.load(weights, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InceptionError(f"Inception weights {weights} cannot be read: {reason}") from error
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise InceptionError(
            f"Inception weights {weights}: not a file of tensors that torch.save wrote"
        ) from error
    if not isinstance(found, dict):
        raise InceptionError(f"Inception weights {weights}: holds no state dict")
