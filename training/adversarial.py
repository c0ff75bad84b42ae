"""The game of StyleGAN-2: what the discriminator and the generator each minimise.

Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020;
Mescheder et al., "Which Training Methods for GANs do actually Converge?", ICML 2018 (R1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from receiver.stylegan2 import StyleGAN2
from training.ada import AdaptiveAugmentation
from training.config import AdversarialSettings, StyleGAN2Training
from training.discriminator import Discriminator

PATH_DECAY = 0.99  # of the running mean of path lengths
W_DECAY = 0.998  # of the running mean of w


def r1_penalty(scores: Tensor, real: Tensor) -> Tensor:
    r"""Mean of :math:`\|\nabla_x D(x)\|^2` over the real images x, each (3, H, W)."""
    (gradient,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


def path_lengths(images: Tensor, w: Tensor, direction: Tensor) -> Tensor:
    r"""Length of :math:`J_w^T y` for each image, eq. (4) of the StyleGAN-2 paper.

    Arguments:
        images: g(w), (B, 3, H, W).
        w: A style for each block, (B, blocks, latent); the square is averaged over the blocks.
        direction: y from N(0, I), (B, 3, H, W).

    Returns:
        :math:`\|J_w^T y\|_2 / \sqrt{HW}`, (B,).
    """
    projected = (images * direction).sum() / math.sqrt(images[0, 0].numel())
    (gradient,) = torch.autograd.grad(projected, w, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


class GAN(nn.Module):
    """Both networks and what training keeps beside them, so that one checkpoint holds all.

    Every draw comes from the generator that a method is given.
    """

    path_mean: Tensor

    def __init__(self, training: StyleGAN2Training) -> None:
        super().__init__()
        self.settings: AdversarialSettings = training.loop
        self.generator = StyleGAN2(training.architecture)
        self.discriminator = Discriminator(training.discriminator)
        self.augmentation = AdaptiveAugmentation(training.loop.ada_target, training.loop.ada_images)
        self.register_buffer("path_mean", torch.zeros(()))

    def discriminator_terms(
        self, real: Tensor, draws: torch.Generator, *, r1: bool
    ) -> dict[str, Tensor]:
        """The non-saturating loss on ``real``, (B, 3, H, W) in [-1, 1]; with R1 if asked for."""
        with torch.no_grad():
            fake = self.generator(*self.draw(len(real), draws))
        fake_scores = self.discriminator(self.augmentation(fake, draws))
        real_scores = self.discriminator(self.augmentation(real, draws))
        self.augmentation.observe(real_scores)
        loss = F.softplus(fake_scores).mean() + F.softplus(-real_scores).mean()
        terms = {"D loss": loss, "D(real)": real_scores.mean(), "D(fake)": fake_scores.mean()}
        if r1:
            terms["R1"] = self.r1(real, draws)
            loss = loss + self.settings.r1_weight / 2 * self.settings.r1_every * terms["R1"]
        return terms | {"loss": loss}

    def r1(self, real: Tensor, draws: torch.Generator) -> Tensor:
        """In single precision: half of it would not do for a gradient's gradient."""
        with torch.autocast(real.device.type, enabled=False):
            real = real.detach().requires_grad_()
            return r1_penalty(self.discriminator(self.augmentation(real, draws)), real)

    def generator_terms(
        self, count: int, draws: torch.Generator, *, path: bool
    ) -> dict[str, Tensor]:
        """The non-saturating loss on ``count`` images; with path-length regularity if asked."""
        fake = self.generator(*self.draw(count, draws))
        loss = F.softplus(-self.discriminator(self.augmentation(fake, draws))).mean()
        terms = {"G loss": loss}
        if path:
            terms["path"] = self.path(max(1, count // self.settings.path_shrink), draws)
            loss = loss + self.settings.path_weight * self.settings.path_every * terms["path"]
        return terms | {"loss": loss}

    def path(self, count: int, draws: torch.Generator) -> Tensor:
        """Squared distance of path lengths from their running mean, which it updates."""
        with torch.autocast(self.path_mean.device.type, enabled=False):
            w, noise = self.draw(count, draws)
            w = w.contiguous()  # so that every block has a gradient of its own
            images = self.generator(w, noise)
            direction = torch.randn(images.shape, generator=draws).to(images.device)
            lengths = path_lengths(images, w, direction)
            with torch.no_grad():
                self.path_mean.lerp_(lengths.mean(), 1 - PATH_DECAY)
            return (lengths - self.path_mean).square().mean()

    def draw(self, count: int, draws: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """Styles, (count, blocks, latent), some mixed of two; and noise. Updates ``w_mean``."""
        generator = self.generator
        device = generator.w_mean.device
        z = torch.randn(2 * count, len(generator.w_mean), generator=draws).to(device)
        first, second = generator.to_w(z).chunk(2)
        with torch.no_grad():
            generator.w_mean.lerp_(first.float().mean(0), 1 - W_DECAY)
        blocks = len(generator.blocks)
        crossover = torch.randint(1, blocks + 1, (count,), generator=draws)
        mixed = torch.rand(count, generator=draws) < self.settings.mixing
        crossover = torch.where(mixed, crossover, blocks).to(device)
        from_first = torch.arange(blocks, device=device) < crossover[:, None]
        w = torch.where(from_first[..., None], generator.spread(first), generator.spread(second))
        return w, draw_noise(generator, count, draws)


def draw_noise(generator: StyleGAN2, count: int, draws: torch.Generator) -> list[Tensor]:
    """N(0, 1) for each block, (count, 2, H, W)."""
    device = generator.w_mean.device
    shapes = generator.noise_shapes
    return [torch.randn((count, *shape), generator=draws).to(device) for shape in shapes]
