"""InverseJSCC: what would a StyleGAN-2 generator have had to make for the link to give y?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

from receiver.inn import INN
from receiver.models import ReceiverModels
from receiver.restorers.base import Trajectory, from_unit
from receiver.stylegan2 import State, StyleGAN2
from shared.bundle import FieldPath
from shared.draws import DiffusionNoise
from shared.perceptual import shared_lpips

SCHEDULE = (50, 50, 25, 25)  # steps on w+, then on the features that enter blocks 1, 2 and 3
ADAM_EPSILON = 1e-8


@dataclass(frozen=True)
class Weights:
    """What the authors leave open of the loss, and of Adam.

    Attributes:
        rates: Adam's learning rate at the start of each stage.
        mse: Of the mean square error; that of LPIPS is 1.
    """

    rates: tuple[float, ...] = (0.1, 0.05, 0.01, 0.005)
    mse: float = 4.0


DEFAULTS = Weights()


@dataclass(kw_only=True)
class Optimisation(Trajectory):
    """One image's optimisation; ``x`` is the generator's present image, ``x0`` its best so far.

    Attributes:
        ends: Steps done when each stage ends.
        planes: The generator's noise for each block, (2, h, w); fixed.
        w: A style for each block, (blocks, latent).
        features: What enters block ``stage``, (C, h, w); None before the first stage and in it.
        image: The skip image that enters with the features, (3, h, w); not optimised.
        stage: The stage that the variables above are at, -1 before the first.
        adam: The stage's optimiser, with its moments.
        losses: The loss at each step.
    """

    ends: tuple[int, ...]
    planes: list[Tensor]
    w: Tensor
    features: Tensor | None = None
    image: Tensor | None = None
    stage: int = -1
    adam: torch.optim.Adam | None = None
    losses: list[float] = field(default_factory=list)

    @property
    def next_stage(self) -> int:
        """The stage of the next step."""
        return sum(end <= self.position for end in self.ends)

    @property
    def progress(self) -> float:
        """Part of the next step's stage that is done, 0 to 1."""
        stage = self.next_stage
        begin = self.ends[stage - 1] if stage else 0
        return (self.position - begin) / (self.ends[stage] - begin)


class InverseJSCC:
    r"""Intermediate-layer optimisation (ILO) of the generator's variables.

    The first stage optimises w+ (a style for each block) from the mean style; stage s optimises
    the features that enter block s, and the styles from there on, from where the stage before left
    them. The loss is

    .. math:: \lambda \, \mathrm{MSE}(c, c_y) + \mathrm{LPIPS}(\uparrow c, \uparrow c_y)

    The link itself is not at hand, as the encoder lives at the transmitter: the degradation of
    the generator's image is the coarse part c of the INN that imitates the link, and the
    observation is :math:`c_y`, y brought to c's size by the plain split, which is all that CommIN
    knows of y too. AlexNet needs more pixels than c has, so LPIPS is taken after both were brought
    to the size of images by the same bilinear interpolation.

    Source: Erdemir et al., "Generative joint source-channel coding for semantic image
    transmission", JSAC 2023; Daras et al., "Intermediate Layer Optimization for Inverse Problems
    using Deep Generative Models", ICML 2021. Weights and rates are ours, chosen on
    eight validation images (benchmarks/inversion.py; models/faces64/README.md).
    """

    name = "inverse-jscc"
    summary = "InverseJSCC: intermediate-layer optimisation of a StyleGAN-2 generator"
    default_steps = sum(SCHEDULE)
    max_steps = 20 * default_steps
    ignores: frozenset[FieldPath] = frozenset({("prior",), ("guidance",), ("fast",)})

    def __init__(
        self, models: ReceiverModels, generator: StyleGAN2, weights: Weights = DEFAULTS
    ) -> None:
        self.models = models
        self.generator = generator
        self.weights = weights
        self.lpips = shared_lpips(models.device)

    def start(self, y: Tensor, snr_db: float, steps: int, noise: DiffusionNoise) -> Optimisation:
        """The mean style, and the frame's own noise for the generator."""
        image = from_unit(y)
        return Optimisation(
            x=image,
            x0=image,
            guide=self.models.inn_for(snr_db).coarse(image[None])[0],
            snr_db=snr_db,
            times=list(range(steps, 0, -1)),
            noise=noise,
            ends=stage_ends(steps, len(self.generator.blocks)),
            planes=self.draw_planes(noise, y.device),
            w=self.generator.spread(self.generator.w_mean[None])[0],
        )

    def draw_planes(self, noise: DiffusionNoise, device: torch.device) -> list[Tensor]:
        """The frame's draws as noise for each block of the generator."""
        shapes = self.generator.noise_shapes
        counts = [planes * height * width for planes, height, width in shapes]
        drawn = torch.from_numpy(noise.draw(0, (sum(counts),))).to(device)
        return [
            part.reshape(shape) for part, shape in zip(drawn.split(counts), shapes, strict=True)
        ]

    def batch_key(self, trajectory: Trajectory) -> Hashable:
        """Images at the same stage, of the same INN, go together."""
        assert isinstance(trajectory, Optimisation)
        return id(self.models.inn_for(trajectory.snr_db)), trajectory.next_stage

    def step(self, batch: Sequence[Trajectory]) -> None:
        """One step of Adam for each image."""
        runs = [each for each in batch if isinstance(each, Optimisation)]
        for each in runs:
            if each.stage != each.next_stage:
                self.enter(each, each.next_stage)
        guide = torch.stack([each.guide for each in runs])
        snr_db = guide.new_tensor([each.snr_db for each in runs])
        inn = self.models.inn_for(runs[0].snr_db)

        with torch.enable_grad():
            images = self.images(runs)
            losses = self.loss(inn, images, guide, snr_db)
            losses.sum().backward()

        for each, image, loss in zip(runs, images.detach(), losses.tolist(), strict=True):
            assert each.adam is not None
            for group in each.adam.param_groups:
                group["lr"] = self.weights.rates[each.stage] * (1 - each.progress)
            each.adam.step()
            each.adam.zero_grad()
            if loss <= min(each.losses, default=loss):
                each.x0 = image
            each.x = image
            each.losses.append(loss)
            each.position += 1

    @torch.no_grad()
    def enter(self, each: Optimisation, stage: int) -> None:
        """Takes the features to the block where ``stage`` begins, and starts Adam afresh."""
        w, planes = each.w.detach()[None], [plane[None] for plane in each.planes]
        if stage:
            state = self.generator.start(1)
            if each.features is not None and each.image is not None:
                state = State(each.features.detach()[None], each.image[None])
            state = self.generator.run(state, w, planes, max(each.stage, 0), stage)
            each.features, each.image = state.features[0].clone(), state.image[0]
        each.w, each.stage = w[0].clone(), stage
        variables = [each.w] if each.features is None else [each.w, each.features]
        for variable in variables:
            variable.requires_grad_()
        each.adam = torch.optim.Adam(variables, self.weights.rates[stage], eps=ADAM_EPSILON)

    def images(self, runs: Sequence[Optimisation]) -> Tensor:
        """The generator's images, (B, 3, H, W) in [-1, 1], of runs at one stage.

        Values are clamped, the gradient is not: a pixel that is out of range can come back.
        """
        w = torch.stack([each.w for each in runs])
        planes = [torch.stack(block) for block in zip(*(each.planes for each in runs), strict=True)]
        features = [each.features for each in runs if each.features is not None]
        skips = [each.image for each in runs if each.image is not None]
        if features:
            state = State(torch.stack(features), torch.stack(skips))
        else:
            state = self.generator.start(len(runs))
        images = self.generator.images(state, w, planes, runs[0].stage)
        return images + (images.clamp(-1, 1) - images).detach()

    def loss(self, inn: INN, images: Tensor, guide: Tensor, snr_db: Tensor) -> Tensor:
        """The weighted sum that the class states, for each image.

        Arguments:
            inn: The network that imitates the link.
            images: (B, 3, H, W) in [-1, 1].
            guide: y at c's size, (B, 3, h, w).
            snr_db: (B,).

        Returns:
            (B,).
        """
        coarse, _ = inn(images, snr_db)
        mse: Tensor = (coarse - guide).square().mean((1, 2, 3))
        size = images.shape[-2:]
        large = [F.interpolate(c, size=size, mode="bilinear") for c in (coarse, guide)]
        perceptual: Tensor = self.lpips(*large).flatten()
        return self.weights.mse * mse + perceptual


def stage_ends(steps: int, blocks: int) -> tuple[int, ...]:
    """Steps done when each stage ends: ``SCHEDULE`` in proportion, rounded up.

    A generator of few blocks has no more stages than blocks, and few steps may leave the last
    stages without any.
    """
    schedule = SCHEDULE[:blocks]
    return tuple(-(-steps * end // sum(schedule)) for end in accumulate(schedule))
