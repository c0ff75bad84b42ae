"""LPIPS on an AlexNet trunk that ships beside this file, so nothing is downloaded.

Needs the packages ``lpips`` and ``torchvision``. Container images of the services go without
them, and without the trunk.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from shared.bundle import BundleError, sha256

TRUNK = Path(__file__).parent / "alexnet-features.safetensors"
TRUNK_SHA256 = "09a72eeb4d1827a69c74df1ca658d1a525298f3f5196cec9ea60675e1af127be"
SMALLEST = 31  # height and width that an image needs, pixels


def has_lpips() -> bool:
    """Whether :func:`load_lpips` has the packages and the trunk that it needs."""
    packages = all(find_spec(package) is not None for package in ("lpips", "torchvision"))
    return packages and TRUNK.is_file()


def load_lpips(trunk: Path = TRUNK) -> nn.Module:
    """LPIPS (v0.1, alex) of the ``lpips`` package, on the shipped trunk.

    Arguments:
        trunk: torchvision's AlexNet ``features``, as safetensors.

    Returns:
        A module in evaluation mode, without parameter gradients, that takes two batches in
        [-1, 1], (B, 3, H, W), and gives (B, 1, 1, 1).

    Raises:
        BundleError: If the file is missing or is not the one that the metric is defined with.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual
    Metric", CVPR 2018.
    """
    if not trunk.is_file():
        raise BundleError(f"AlexNet trunk {trunk} is missing")
    if (found := sha256(trunk)) != TRUNK_SHA256:
        raise BundleError(f"AlexNet trunk {trunk} has sha256 {found}, expected {TRUNK_SHA256}")
    metric = _untrained_lpips()
    tensors = load_file(trunk)
    slices = {name: name.split(".", 1)[1] for name in metric.net.state_dict()}  # sliceN.i.* -> i.*
    metric.net.load_state_dict(
        {name: tensors[f"features.{layer}"] for name, layer in slices.items()}
    )
    result: nn.Module = metric.eval().requires_grad_(False)
    return result


def _untrained_lpips() -> Any:
    """The package's module with its own linear layers and a random trunk, built in silence."""
    import lpips  # late: it imports torchvision and SciPy

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)


@cache
def shared_lpips(device: torch.device) -> nn.Module:
    """:func:`load_lpips`, once for each device."""
    return load_lpips().to(device)
