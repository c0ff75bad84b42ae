"""Network weights in safetensors files: stored in half precision, computed with in single."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from shared.bundle import BundleError

Network = TypeVar("Network", bound=nn.Module)


def pick_device(name: str = "auto") -> torch.device:
    """``cuda`` when present else ``cpu`` for "auto"; otherwise the device of that name.

    Raises:
        ValueError: If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used: {error}") from error


def save_weights(network: nn.Module, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes a network's parameters and buffers, floating ones as ``dtype``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in network.state_dict().items()
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    path.chmod(0o644)  # safetensors makes files private; a service may run as another user


def load_weights(network: Network, path: Path, device: torch.device) -> Network:
    """Loads weights in place and makes the network ready to serve.

    Returns:
        ``network`` in float32 and channels-last on ``device``, in evaluation mode, without
        parameter gradients.

    Raises:
        BundleError: If the file is not safetensors, or its names or shapes are not the network's.
    """
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise BundleError(f"weights {path} do not fit: {error}") from error
    return ready(network, device)


def ready(network: Network, device: torch.device) -> Network:
    """Puts a network in serving form; see :func:`load_weights`."""
    network.to(device, torch.float32).eval().requires_grad_(False)
    return network.to(memory_format=torch.channels_last)
