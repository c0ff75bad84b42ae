"""Trains the diffusion prior with the DDPM loss."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.utils.tensorboard.writer import SummaryWriter
from torchvision.utils import make_grid

from receiver.diffusion import TRAINING_STEPS, Step, timesteps
from receiver.prior import Prior
from receiver.restorers.base import from_unit, to_unit
from training.config import TrainingConfig
from training.data import Images, ImageSource, load_all
from training.loop import train


class Denoising(nn.Module):
    r"""The prior with its loss, :math:`w_t \|\epsilon - \epsilon_\theta(x_t, t)\|_2^2`.

    Arguments:
        prior: The network to train.
        min_snr_gamma: The weight is :math:`\min(1, \gamma / \mathrm{SNR}_t)` with
            :math:`\mathrm{SNR}_t = \bar\alpha_t / (1 - \bar\alpha_t)`; None makes it 1.

    Source: Ho et al., "Denoising diffusion probabilistic models", 2020; Hang et al., "Efficient
    Diffusion Training via Min-SNR Weighting Strategy", 2023.
    """

    def __init__(self, prior: Prior, min_snr_gamma: float | None = None) -> None:
        super().__init__()
        self.prior = prior
        self.min_snr_gamma = min_snr_gamma

    def forward(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss on ``x``, (B, 3, H, W) in [0, 1], at times drawn evenly from 1 … 1000."""
        t = torch.randint(1, TRAINING_STEPS + 1, (len(x),), generator=generator)
        noise = torch.randn(x.shape, generator=generator).to(x.device)
        step = Step.between(t.tolist(), (t - 1).tolist(), x.device)
        predicted = self.prior(step.add_noise(from_unit(x), noise), t.to(x.device))
        mse = (predicted.float() - noise).square().mean((1, 2, 3))
        weight = torch.ones_like(mse)
        if self.min_snr_gamma is not None:
            snr = (step.alpha_bar / (1 - step.alpha_bar)).flatten()
            weight = (self.min_snr_gamma / snr).clamp(max=1)
        return {"loss": (weight * mse).mean(), "unweighted": mse.mean()}


@torch.no_grad()
def validation_loss(objective: Denoising, x: Tensor, batch: int = 64) -> float:
    """Mean squared error of the noise over ``x`` at times and noise that are always the same."""
    generator = torch.Generator().manual_seed(0)
    device = next(objective.parameters()).device
    losses = [
        float(objective(part.to(device), generator)["unweighted"]) * len(part)
        for part in x.split(batch)
    ]
    return sum(losses) / len(x)


@torch.no_grad()
def sample(prior: Prior, count: int, size: int, steps: int = 50, seed: int = 0) -> Tensor:
    """Unconditional samples by eqs. (10)-(11) on a respaced schedule: (count, 3, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    device = next(prior.parameters()).device
    x = torch.randn((count, 3, size, size), generator=generator).to(device)
    times = [*timesteps(steps), 0]
    for t, s in pairwise(times):
        step = Step.between([t] * count, [s] * count, device)
        epsilon = prior(x, torch.full((count,), t, device=device))
        x0 = step.predict_x0(x, epsilon).clamp(-1, 1)
        noise = torch.randn(x.shape, generator=generator).to(device)
        x = step.posterior_mean(x, x0) + step.sigma * noise
    return to_unit(x).cpu()


def train_prior(
    config: TrainingConfig, data: Path, validation: Path, runs: Path, start: Path | None = None
) -> Prior:
    """Trains (or continues training) the prior and returns its moving average.

    Arguments:
        config: Network, patch size, weighting and loop.
        data: The training set.
        validation: The validation set.
        runs: Checkpoints go under ``runs/<bundle>/prior``; one that is there is continued,
            optimiser state included.
        start: A diffusers folder whose weights a new run starts from.
    """
    training = config.prior
    size = config.jscc.architecture.image_size
    held_out = load_all(validation, size)

    def validate(module: nn.Module, writer: SummaryWriter, step: int) -> dict[str, float]:
        assert isinstance(module, Denoising)
        writer.add_image("samples", make_grid(sample(module.prior, 16, size), 8), step)
        return {"noise error": validation_loss(module, held_out)}

    torch.manual_seed(training.loop.seed)  # of the weights
    network = UNet2DModel.from_pretrained(start) if start else UNet2DModel(**training.network)
    objective = Denoising(Prior(network, training.patch_size), training.min_snr_gamma)
    images = Images(ImageSource(data), size)
    trained = train(objective, images, training.loop, runs / config.name / "prior", validate)
    assert isinstance(trained, Denoising)
    return trained.prior
