"""Adaptive discriminator augmentation: the more the discriminator overfits, the more is augmented.

Source: Karras et al., "Training Generative Adversarial Networks with Limited Data", NeurIPS 2020.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SHIFT = 1 / 8  # largest translation, of the image's size
BRIGHTNESS = 0.2  # standard deviation, for images in [-1, 1]
CONTRAST = 0.5  # standard deviation, octaves
SATURATION = 1.0  # standard deviation, octaves


class AdaptiveAugmentation(nn.Module):
    """Pixel blits and colour transforms, each of which meets an image with probability ``p``.

    The blits are quarter turns and whole-pixel shifts, the colour transforms brightness, contrast,
    hue and saturation. As long as p stays well below 1, the generator cannot learn them.

    Arguments:
        target: p rises while the mean of sign(D(real)) is above this, else falls.
        images: So many images take p from 0 to 1 at the fastest.

    Attributes:
        p: The present probability; with the sums below it, a buffer, so checkpoints hold it.
    """

    p: Tensor
    signs: Tensor
    seen: Tensor

    def __init__(self, target: float, images: int) -> None:
        super().__init__()
        self.target = target
        self.images = images
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Augments (B, 3, H, W) in [-1, 1], each image on its own; draws from ``generator``."""
        if float(self.p) == 0:
            return x
        return change_colour(blit(x, float(self.p), generator), float(self.p), generator)

    @torch.no_grad()
    def observe(self, real_scores: Tensor) -> None:
        """Takes note of D's outputs on (augmented) real images."""
        self.signs += real_scores.sign().sum()
        self.seen += len(real_scores)

    @torch.no_grad()
    def adapt(self) -> float:
        """Moves p by what was observed since the last call; returns the mean sign."""
        mean = float(self.signs / self.seen.clamp(min=1))
        change = math.copysign(float(self.seen) / self.images, mean - self.target)
        self.p.add_(change).clamp_(0, 1)
        self.signs.zero_()
        self.seen.zero_()
        return mean


def blit(x: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Turns by a random multiple of 90 degrees, then shifts by whole pixels with reflection."""
    count, size = len(x), x.shape[-1]
    turns = torch.randint(0, 4, (count,), generator=generator) * _chosen(count, p, generator)
    most = int(size * SHIFT)
    shifts = torch.randint(-most, most + 1, (count, 2), generator=generator)
    shifts = shifts * _chosen(count, p, generator)[:, None]
    # The pixel that each output pixel shows; reflected, 0 1 2 … n-1 continues n-1 n-2 ….
    places = (torch.arange(size) - shifts[:, :, None]) % (2 * size)
    places = torch.minimum(places, 2 * size - 1 - places)
    rows = places[:, 0, :, None].expand(-1, -1, size)
    columns = places[:, 1, None, :].expand(-1, size, -1)
    last = size - 1
    turned_rows = _choose(turns, [rows, columns, last - rows, last - columns])
    turned_columns = _choose(turns, [columns, last - rows, last - columns, rows])
    flat = (turned_rows * size + turned_columns).flatten(1)[:, None].expand(-1, 3, -1)
    moved: Tensor = x.flatten(2).gather(2, flat.to(x.device)).unflatten(2, (size, size))
    return moved


def change_colour(x: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """An affine map of (R, G, B) for each image."""

    def draw(scale: float) -> Tensor:
        """N(0, scale^2) where chosen, else 0: shape (B, 1, 1)."""
        normal = torch.randn(len(x), generator=generator) * scale
        return (normal * _chosen(len(x), p, generator))[:, None, None]

    brightness, contrast, saturation = draw(BRIGHTNESS), draw(CONTRAST).exp2(), draw(SATURATION)
    angle = torch.rand(len(x), generator=generator) * 2 * math.pi
    angle = (angle * _chosen(len(x), p, generator))[:, None, None]
    grey = torch.full((3, 3), 1 / 3)  # projects onto the grey axis
    third = 1 / math.sqrt(3)
    cross = torch.tensor([[0, -third, third], [third, 0, -third], [-third, third, 0]])
    rotation = angle.cos() * (torch.eye(3) - grey) + angle.sin() * cross
    matrix = contrast * (grey + saturation.exp2() * rotation)
    mixed = torch.einsum("bij,bjhw->bihw", matrix.to(x.device), x)
    return mixed + (contrast * brightness)[..., None].to(x.device)


def _chosen(count: int, p: float, generator: torch.Generator) -> Tensor:
    """1 with probability p, else 0: (count,)."""
    return (torch.rand(count, generator=generator) < p).long()


def _choose(which: Tensor, options: list[Tensor]) -> Tensor:
    """For each image, the option of its number."""
    return torch.stack(options)[which, torch.arange(len(which))]
