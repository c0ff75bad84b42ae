"""In which precision the prior and the INN compute: as set, or whichever is fast here.

Only what goes through their layers is rounded to bfloat16. Diffusion states, estimates, lifting
sums and the schedule's arithmetic stay in float32, as do gradients, and encoder and decoder, which
run once for each image.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from receiver.inn import INN
from receiver.prior import Prior
from receiver.settings import Precision

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

# bfloat16 costs some accuracy, so it has to be worth it.
WORTHWHILE = 1.25
# What takes no time in any precision is not worth a measurement, and gives an unsteady one.
SMALL_NETWORK = 200_000
IMAGES = 2
REPETITIONS = 3

_measured: dict[tuple[str, int, int], torch.dtype] = {}


def pick_dtype(precision: Precision, prior: Prior, image_size: int) -> torch.dtype:
    """The precision asked for; for "auto", that which is faster on the prior's device.

    Measured once in a process for each device and size of network.

    Arguments:
        precision: What is asked for.
        prior: In float32.
        image_size: Height and width of images, pixels.
    """
    if precision != "auto":
        return DTYPES[precision]
    parameters = sum(each.numel() for each in prior.parameters())
    if parameters < SMALL_NETWORK:
        return torch.float32
    key = (str(next(prior.parameters()).device), parameters, image_size)
    if key not in _measured:
        _measured[key] = _faster(prior, image_size)
    return _measured[key]


class Lowered(nn.Module):
    """A network that computes in another type, and in float32 where a gradient is wanted.

    Gradients through many layers in bfloat16 are too coarse for Algorithm 1: its images came out
    up to 35 grey levels different. Takes and gives float32.

    Arguments:
        network: In float32; kept as it is.
        dtype: Such as bfloat16.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.single = network
        self.low = copy.deepcopy(network)
        nn.Module.to(self.low, dtype)  # diffusers' own warns of layers that are not there
        self.dtype = dtype

    def forward(self, x: Tensor, *others: Tensor | None, **options: Any) -> Any:
        """Runs the network on ``x``; a tensor or a tuple of tensors."""
        if x.requires_grad:
            return self.single(x, *others, **options)
        output = self.low(*(self._lowered(each) for each in (x, *others)), **options)
        return output.float() if isinstance(output, Tensor) else tuple(o.float() for o in output)

    def _lowered(self, each: Tensor | None) -> Tensor | None:
        return each.to(self.dtype) if each is not None and each.is_floating_point() else each


def compute_in(dtype: torch.dtype, prior: Prior, inns: Iterable[INN]) -> None:
    """Has the networks compute in ``dtype`` wherever no gradient is wanted."""
    if dtype is torch.float32:
        return
    prior.network = Lowered(prior.network, dtype)
    for branches in (each for inn in inns for each in inn.branches()):
        for i, branch in enumerate(branches):
            branches[i] = Lowered(branch, dtype)


def compile_network(prior: Prior) -> None:
    """Has ``torch.compile`` speed up the prior, in every precision that it computes in."""
    network = prior.network
    for each in (network.single, network.low) if isinstance(network, Lowered) else (network,):
        each.compile(dynamic=True)


def _faster(prior: Prior, image_size: int) -> torch.dtype:
    """bfloat16 if it is worth it."""
    half = Prior(prior.network, prior.patch_size)
    try:
        compute_in(torch.bfloat16, half, ())
        single_seconds, half_seconds = _race(prior, half, image_size)
    except RuntimeError as error:  # a device without it
        log.info("the prior computes in float32: no bfloat16 here: %s", error)
        return torch.float32
    ratio = single_seconds / half_seconds
    chosen = torch.bfloat16 if ratio >= WORTHWHILE else torch.float32
    log.info("the prior computes in %s: bfloat16 is %.2f times as fast", chosen, ratio)
    return chosen


@torch.inference_mode()
def _race(single: Prior, half: Prior, image_size: int) -> tuple[float, float]:
    """The shortest time of each, in turns, so that whatever else runs here disturbs both."""
    device = next(single.parameters()).device
    x = torch.zeros((IMAGES, 3, image_size, image_size), device=device)
    t = torch.full((IMAGES,), 500, device=device)
    best = {single: float("inf"), half: float("inf")}
    for repetition in range(REPETITIONS + 1):
        for prior in best:
            started = time.perf_counter()
            prior(x, t).sum().item()  # waits for the device
            if repetition:  # the first one warms up
                best[prior] = min(best[prior], time.perf_counter() - started)
    return best[single], best[half]
