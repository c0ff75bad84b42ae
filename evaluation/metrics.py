"""How far images are from their originals, one by one and as sets.

Every image is RGB in [0, 1], float, with shape (B, 3, H, W).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.alexnet import AlexNetFeatures
from shared.perceptual import shared_lpips

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, finest first
SSIM_WINDOW = 11


def psnr_db(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, (B,); infinite for identical ones."""
    _check(x, y)
    mse = (x.double() - y.double()).square().mean((1, 2, 3))
    return -10 * mse.log10()


@torch.no_grad()
def lpips(x: Tensor, y: Tensor) -> Tensor:
    """LPIPS (alex, v0.1) of each image, (B,); 0 for identical ones, less is better."""
    _check(x, y)
    distance: Tensor = shared_lpips(x.device)(2 * x - 1, 2 * y - 1)
    return distance.flatten()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of each image, (B,), at most 1; Gaussian window of 11 pixels."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check(x, y)
    result = structural_similarity_index_measure(
        x, y, data_range=1.0, kernel_size=SSIM_WINDOW, reduction="none"
    )
    assert isinstance(result, Tensor)
    return result


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Multi-scale structural similarity of each image, (B,), at most 1.

    The window needs 11 pixels at the coarsest scale, so images below 176 pixels are measured at as
    many of the five scales as fit (three for 64 pixels), with the weights renormalised. Figures
    with different numbers of scales cannot be compared.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    _check(x, y)
    scales = ms_ssim_scales(min(x.shape[2:]))
    weights = np.array(MS_SSIM_WEIGHTS[:scales])
    result = multiscale_structural_similarity_index_measure(
        x,
        y,
        data_range=1.0,
        kernel_size=SSIM_WINDOW,
        betas=tuple((weights / weights.sum()).tolist()),
        normalize="relu",
        reduction="none",
    )
    assert isinstance(result, Tensor)
    return result


def ms_ssim_scales(size: int) -> int:
    """How many of the five scales fit an image of ``size`` pixels.

    Raises:
        ValueError: If not even one does.
    """
    # torchmetrics divides by (scales - 1)^2 in its check, though each scale only halves the image.
    fits = [
        scales
        for scales in range(1, len(MS_SSIM_WEIGHTS) + 1)
        if size // max(2 ** (scales - 1), (scales - 1) ** 2) >= SSIM_WINDOW
    ]
    if not fits:
        raise ValueError(f"images of {size} pixels, SSIM needs at least {SSIM_WINDOW}")
    return max(fits)


@torch.no_grad()
def features_of(network: nn.Module, images: Tensor, batch: int = 128) -> Tensor:
    """What a network such as :class:`AlexNetFeatures` makes of images: (N, F), on their device."""
    network = network.to(images.device)
    return torch.cat([network(part) for part in torch.split(images, batch)])


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance between two sets of features, (N, F) and (M, F); less is better.

    Sets should be well above the F features in number; the distance is biased upwards for small
    ones.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
    Equilibrium", NeurIPS 2017.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(_Given(real.shape[1])).to(real.device)
    for features, is_real in ((real, True), (fake, False)):
        metric.update(features, real=is_real)
    return float(metric.compute())


def kernel_distance(
    real: Tensor, fake: Tensor, subset: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance between two sets of features: mean and deviation of 100 subsets.

    Unbiased, so that sets may be smaller than the features are many.

    Source: Bińkowski et al., "Demystifying MMD GANs", ICLR 2018.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it keeps all features in memory: they are there
        metric = KernelInceptionDistance(_Given(real.shape[1]), subset_size=subset)
    metric.to(real.device)
    for features, is_real in ((real, True), (fake, False)):
        metric.update(features, real=is_real)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # which subsets
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def frechet_alexnet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance between two sets of images over :class:`AlexNetFeatures`.

    Not FID, with whose figures it cannot be compared.
    """
    _check_set(real, 2)
    _check_set(fake, 2)
    network = AlexNetFeatures()
    return frechet_distance(features_of(network, real), features_of(network, fake))


def kernel_alexnet_distance(
    real: Tensor, fake: Tensor, subset: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance between two sets of images over :class:`AlexNetFeatures`; not KID."""
    _check_set(real, subset)
    _check_set(fake, subset)
    network = AlexNetFeatures()
    return kernel_distance(features_of(network, real), features_of(network, fake), subset, seed)


class _Given(nn.Identity):
    """Features that are computed already, in the place of a network that computes them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features


def bootstrap_interval(
    values: Sequence[float] | Tensor, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Confidence interval of the mean by the percentile bootstrap over images.

    Arguments:
        values: One finite number for each image, two or more.
        level: Coverage, between 0 and 1.
        draws: Resamplings.
        seed: Of the resampling, so that a report is reproducible.

    Raises:
        ValueError: If there are fewer than two values or one is not finite.
    """
    from scipy.stats import bootstrap

    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or len(sample) < 2:
        raise ValueError(f"values of shape {sample.shape}, expected two or more in a row")
    if not np.isfinite(sample).all():
        raise ValueError("a value is not finite, so the mean has no confidence interval")
    if (sample == sample[0]).all():
        return float(sample[0]), float(sample[0])
    found = bootstrap(
        (sample,),
        np.mean,
        n_resamples=draws,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _check(x: Tensor, y: Tensor) -> None:
    """Two batches that can be compared."""
    if x.shape != y.shape:
        raise ValueError(f"images of shape {tuple(x.shape)} against {tuple(y.shape)}")
    _check_set(x, 1)
    _check_set(y, 1)


def _check_set(images: Tensor, least: int) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images of shape {tuple(images.shape)}, expected (B, 3, H, W)")
    if len(images) < least:
        raise ValueError(f"{len(images)} images, expected at least {least}")
    if not images.is_floating_point():
        raise ValueError(f"images of type {images.dtype}, expected float in [0, 1]")
    low, high = (float(edge) for edge in images.aminmax())
    if not (low >= 0 and high <= 1):  # NaN fails too
        raise ValueError(f"images between {low:g} and {high:g}, expected [0, 1]")
