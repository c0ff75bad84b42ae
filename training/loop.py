"""The training loop that every part shares: accelerate, EMA, checkpoints, TensorBoard, progress."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from rich.progress import MofNCompleteColumn, Progress
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from torch.utils.tensorboard.writer import SummaryWriter

from shared.progress import bars
from training.config import LoopSettings, RunSettings
from training.data import Images, StepSampler, training_batches


class Objective(Protocol):
    """A network with its loss, which draws from the given generator alone: steps can be redone."""

    def __call__(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The terms of the loss on ``x``, RGB in [0, 1], (B, 3, H, W); ``"loss"`` is minimised."""


Validate = Callable[[nn.Module, SummaryWriter, int], dict[str, float]]


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """The random draws of one training step: a function of (seed, step, rank) alone."""
    # A large odd multiplier keeps neighbouring steps' streams apart.
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 4_099 + rank)


def learning_rate_factor(step: int, settings: LoopSettings) -> float:
    """Linear warm-up, then constant, then a linear fall to 2% over the last ``decay`` part."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup))
    left = (settings.steps - step) / max(1.0, settings.decay * settings.steps)
    return warm * max(0.02, min(1.0, left))


def moving_average(
    decay: float,
) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Exponential averaging whose decay rises to ``decay``, so that a short run forgets its start.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), as in TensorFlow's
    ``ExponentialMovingAverage``.
    """

    @torch.no_grad()
    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        weight = 1 - min(decay, float((1 + count) / (10 + count)))
        for mean, value in zip(averaged, current, strict=True):
            mean.lerp_(value, weight)

    return update


class Checkpoints:
    """The newest checkpoint of a run, replaced atomically so that a kill at any time is safe."""

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.current = folder / "checkpoint"
        self.previous = folder / "checkpoint.old"
        self.accelerator = accelerator

    def save(self, step: int) -> None:
        """Writes the state after ``step`` steps beside the old one, then swaps them."""
        fresh = self.current.with_suffix(".new")
        if self.accelerator.is_main_process:
            shutil.rmtree(fresh, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(fresh))
        if self.accelerator.is_main_process:
            (fresh / "progress.json").write_text(json.dumps({"step": step}))
            if self.current.exists():  # else a kill left the previous one as the only whole one
                shutil.rmtree(self.previous, ignore_errors=True)
                self.current.rename(self.previous)
            fresh.rename(self.current)
            shutil.rmtree(self.previous, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def restore(self) -> int:
        """Loads the newest whole checkpoint; returns the number of steps it has behind it."""
        for folder in (self.current, self.previous):
            if (folder / "progress.json").exists():
                self.accelerator.load_state(str(folder))
                return int(json.loads((folder / "progress.json").read_text())["step"])
        return 0


def train(
    objective: nn.Module,
    images: Images,
    settings: LoopSettings,
    folder: Path,
    validate: Validate,
) -> nn.Module:
    """Trains ``objective`` and returns its exponential moving average.

    Run again with the same arguments, it continues from the newest checkpoint in ``folder``.

    Arguments:
        objective: A module that is an :class:`Objective`.
        images: The training set.
        settings: Steps, batch, learning rate and so on.
        folder: Where checkpoints and TensorBoard events go.
        validate: Called with the averaged objective every ``validate_every`` steps; returns
            scalars to log and may write pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision="bf16" if settings.bf16 else "no")
    writer = SummaryWriter(str(folder / "tensorboard"))
    objective = objective.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(objective, multi_avg_fn=moving_average(settings.ema))
    optimiser = torch.optim.AdamW(
        [p for p in objective.parameters() if p.requires_grad],
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    scheduler = LambdaLR(optimiser, lambda step: learning_rate_factor(step, settings))
    model, optimiser = accelerator.prepare(objective, optimiser)
    accelerator.register_for_checkpointing(average, scheduler)
    checkpoints = Checkpoints(folder, accelerator)
    start = checkpoints.restore()

    saved = time.monotonic()
    with progress_bar(disable=not accelerator.is_main_process) as progress:
        bar = progress.add_task("training", total=settings.steps, completed=start, loss="")
        for step, batch in enumerate(batches(images, settings, start, accelerator), start):
            generator = step_generator(settings.seed, step, accelerator.process_index)
            x = augment(batch.float().div(255), generator).to(accelerator.device)
            terms = model(x.contiguous(memory_format=torch.channels_last), generator)
            optimiser.zero_grad(set_to_none=True)
            accelerator.backward(terms["loss"])
            norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip)
            optimiser.step()
            scheduler.step()
            average.update_parameters(accelerator.unwrap_model(model))

            done = step + 1
            if done % settings.log_every == 0 and accelerator.is_main_process:
                log_terms(writer, terms | {"gradient norm": norm}, done)
                writer.add_scalar("train/learning rate", scheduler.get_last_lr()[0], done)
                progress.update(
                    bar, completed=done, loss=f"loss {float(terms['loss'].detach()):.5f}"
                )
            if accelerator.is_main_process and (
                done % settings.validate_every == 0 or done == settings.steps
            ):
                average.eval()
                for name, value in validate(average.module, writer, done).items():
                    writer.add_scalar(f"validation/{name}", value, done)
                    progress.console.print(f"step {done}: {name} {value:.4f}")
            if time.monotonic() - saved > 60 * settings.checkpoint_minutes or (
                done == settings.steps
            ):
                checkpoints.save(done)
                saved = time.monotonic()
    writer.close()
    average.eval()
    result: nn.Module = average.module
    return result


def batches(
    images: Images, settings: RunSettings, start: int, accelerator: Accelerator
) -> DataLoader[Tensor]:
    """This process's batches of the steps from ``start`` on, uint8 with shape (B, 3, H, W)."""
    sampler = StepSampler(
        len(images),
        settings.batch,
        start,
        settings.steps,
        settings.seed,
        accelerator.process_index,
        accelerator.num_processes,
    )
    return training_batches(images, sampler, settings.workers)


def log_terms(writer: SummaryWriter, terms: dict[str, Tensor], step: int) -> None:
    """Writes scalars of a training step."""
    for name, term in terms.items():
        writer.add_scalar(f"train/{name}", float(term.detach()), step)


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrors each image of the batch (B, 3, H, W) left to right with probability one half."""
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)


def progress_bar(disable: bool) -> Progress:
    """A bar whose tasks have a field ``loss``, a text."""
    return bars(MofNCompleteColumn(), "{task.fields[loss]}", disable=disable)
