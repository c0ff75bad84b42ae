"""Trains the StyleGAN-2 generator, the prior of InverseJSCC."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard.writer import SummaryWriter
from torchvision.utils import make_grid

from evaluation.metrics import frechet_alexnet_distance
from receiver.restorers.base import from_unit, to_unit
from receiver.stylegan2 import StyleGAN2
from training.adversarial import GAN, draw_noise
from training.config import AdversarialSettings, TrainingConfig
from training.data import Images, ImageSource, load_all
from training.loop import (
    Checkpoints,
    Validate,
    augment,
    batches,
    log_terms,
    moving_average,
    progress_bar,
    step_generator,
)

ADAPT_EVERY = 4  # steps between changes of the augmentation's probability


class Turn:
    """One player's turn: within it, that player's parameters alone have gradients.

    Arguments:
        player: The network that learns.
        settings: Learning rate and so on.
        accelerator: Scales and reduces.
    """

    def __init__(
        self, player: nn.Module, settings: AdversarialSettings, accelerator: Accelerator
    ) -> None:
        self.player = player.requires_grad_(False)
        self.accelerator = accelerator
        self.optimiser = torch.optim.Adam(
            player.parameters(), lr=settings.learning_rate, betas=settings.betas
        )

    def take(self, evaluate: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """One optimiser step on the ``"loss"`` that ``evaluate`` gives among its terms.

        Returns:
            The other terms.
        """
        self.player.requires_grad_(True)
        with self.accelerator.autocast():
            terms = evaluate()
        self.optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(terms.pop("loss"))
        for parameter in self.player.parameters():
            if parameter.grad is not None:
                parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")
        self.optimiser.step()
        self.player.requires_grad_(False)
        return {name: term.detach() for name, term in terms.items()}


@torch.no_grad()
def sample(generator: StyleGAN2, count: int, seed: int = 0, batch: int = 50) -> Tensor:
    """Images of random styles and noise: (count, 3, H, W) in [0, 1], on the CPU."""
    draws = torch.Generator().manual_seed(seed)
    device, parts = generator.w_mean.device, []
    for start in range(0, count, batch):
        size = min(batch, count - start)
        z = torch.randn(size, len(generator.w_mean), generator=draws).to(device)
        noise = draw_noise(generator, size, draws)
        parts.append(to_unit(generator(generator.spread(generator.to_w(z)), noise)).cpu())
    return torch.cat(parts)


def train_stylegan2(
    config: TrainingConfig, data: Path, validation: Path, runs: Path, steps: int | None = None
) -> tuple[StyleGAN2, dict[str, float]]:
    """Trains (or continues training) the generator.

    Arguments:
        config: Networks and loop.
        data: The training set.
        validation: The set that the Fréchet distance is taken to.
        runs: Checkpoints go under ``runs/<bundle>/stylegan2``; one that is there is continued.
        steps: Steps in all, in the place of the configuration's. With no more of them than the
            checkpoint has, nothing is trained: what comes back is the checkpoint's average.

    Returns:
        The generator's moving average, and what it scores.

    Raises:
        ValueError: If the configuration has no ``stylegan2``.
    """
    training = config.stylegan2
    if training is None:
        raise ValueError("the configuration has no section stylegan2")
    settings = training.loop
    if steps is not None:
        settings = settings.model_copy(update={"steps": steps})
    size = training.architecture.image_size
    held_out = load_all(validation, size)

    def validate(module: nn.Module, writer: SummaryWriter, step: int) -> dict[str, float]:
        assert isinstance(module, StyleGAN2)
        images = sample(module, training.samples)
        writer.add_image("samples", make_grid(images[:32], 8), step)
        return {"Fréchet AlexNet distance": frechet_alexnet_distance(held_out, images)}

    torch.manual_seed(settings.seed)  # all processes start from the same weights
    images = Images(ImageSource(data), size)
    folder = runs / config.name / "stylegan2"
    trained, done = train(GAN(training), images, settings, folder, validate)
    distance = frechet_alexnet_distance(held_out, sample(trained, training.samples))
    return trained, {
        "frechet_alexnet_distance": round(distance, 3),
        "real_images": len(held_out),
        "generated_images": training.samples,
        "steps": done,
        "images_seen": done * settings.batch,
    }


def train(
    gan: GAN, images: Images, settings: AdversarialSettings, folder: Path, validate: Validate
) -> tuple[StyleGAN2, int]:
    """As :func:`training.loop.train`, for two networks that take turns.

    Gradients are averaged over the processes by hand: the penalties differentiate twice, which
    wrappers of distributed modules do not support throughout.

    Returns:
        The generator's moving average, and the steps behind it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision="bf16" if settings.bf16 else "no")
    writer = SummaryWriter(str(folder / "tensorboard"))
    gan = gan.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(gan.generator, multi_avg_fn=moving_average(settings.ema))
    generator_turn = Turn(gan.generator, settings, accelerator)
    discriminator_turn = Turn(gan.discriminator, settings, accelerator)
    accelerator.register_for_checkpointing(
        gan, average, generator_turn.optimiser, discriminator_turn.optimiser
    )
    checkpoints = Checkpoints(folder, accelerator)
    start = done = checkpoints.restore()
    steps = max(settings.steps, start)
    saved = time.monotonic()
    with progress_bar(disable=not accelerator.is_main_process) as progress:
        bar = progress.add_task("training", total=steps, completed=start, loss="")
        for step, batch in enumerate(batches(images, settings, start, accelerator), start):
            draws = step_generator(settings.seed, step, accelerator.process_index)
            real = from_unit(augment(batch.float().div(255), draws)).to(accelerator.device)
            real = real.contiguous(memory_format=torch.channels_last)
            terms = discriminator_turn.take(
                partial(gan.discriminator_terms, real, draws, r1=step % settings.r1_every == 0)
            )
            terms |= generator_turn.take(
                partial(gan.generator_terms, len(real), draws, path=step % settings.path_every == 0)
            )
            average.update_parameters(gan.generator)

            done = step + 1
            if done % ADAPT_EVERY == 0:
                ada = gan.augmentation
                for total in (ada.signs, ada.seen):
                    total.copy_(accelerator.reduce(total))
                terms["sign D(real)"] = torch.tensor(ada.adapt())
            if accelerator.is_main_process:
                if done % settings.log_every == 0:
                    terms |= {"augmentation": gan.augmentation.p, "path mean": gan.path_mean}
                    log_terms(writer, terms, done)
                    losses = f"D {float(terms['D loss']):.3f} G {float(terms['G loss']):.3f}"
                    progress.update(bar, completed=done, loss=losses)
                if done % settings.validate_every == 0:
                    average.eval()
                    for name, value in validate(average.module, writer, done).items():
                        writer.add_scalar(f"validation/{name}", value, done)
                        progress.console.print(f"step {done}: {name} {value:.4f}")
            if time.monotonic() - saved > 60 * settings.checkpoint_minutes or done == steps:
                checkpoints.save(done)
                saved = time.monotonic()
    writer.close()
    average.eval()
    assert isinstance(average.module, StyleGAN2)
    return average.module, done
