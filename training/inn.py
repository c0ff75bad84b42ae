"""Trains INNs to imitate the degradation of a trained DeepJSCC link, eq. (9)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.tensorboard.writer import SummaryWriter
from torchvision.utils import make_grid

from receiver.inn import INN
from receiver.prior import Prior
from receiver.restorers.base import from_unit, to_unit
from training.config import INNTraining, TrainingConfig
from training.data import Images, ImageSource, load_all
from training.guided import GuidedInverse
from training.jscc import JSCC, transmit_all
from training.loop import train


class Imitation(nn.Module):
    r"""An INN with its loss: eq. (9), and a term that keeps the inverse usable.

    .. math:: \|c - y\|_2^2 + w \, \|\mathrm{INN}^{-1}(y, d(x)) - x\|_2^2 + w_g L_g

    The first term alone, the paper's, constrains the forward pass only; the inverse then may
    amplify whatever c differs from y by. The second asks the inverse about photographs, the third
    (:mod:`training.guided`) about the estimates that it meets in a sampler. All terms are means
    over elements, for images in [-1, 1]; y is brought to c's size by the plain split.

    Arguments:
        training: Architecture, SNRs and weights.
        jscc: The link to imitate; it is not trained.
        snr_db: The SNR to imitate, dB; None draws one per image from the link's range.
        prior: Makes the estimates of the third term; None where it has no weight.
    """

    def __init__(
        self, training: INNTraining, jscc: JSCC, snr_db: float | None, prior: Prior | None = None
    ) -> None:
        super().__init__()
        self.inn = INN(training.architecture)
        self.inverse_weight = training.inverse_weight
        self.snr_db = snr_db
        self._link = [jscc]  # in a list, so that it is no submodule: neither trained nor averaged
        self.guided: GuidedInverse | None = None
        self.guided_weight = 0.0
        if training.guided:
            if prior is None:
                raise ValueError("inn.guided needs a prior")
            self.guided = GuidedInverse(training.guided, prior)
            self.guided_weight = training.guided.weight

    @property
    def jscc(self) -> JSCC:
        """The link to imitate."""
        return self._link[0]

    def forward(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss and its terms on ``x``, (B, 3, H, W) in [0, 1]."""
        if self.snr_db is None:
            snr_db = self.jscc.draw_snr(len(x), generator).to(x.device)
        else:
            snr_db = x.new_full((len(x),), self.snr_db)
        with torch.no_grad():
            y = self.jscc.transmit(x, snr_db, generator)
        terms = self.terms(x, y, snr_db)
        terms["loss"] = terms["imitation"] + self.inverse_weight * terms["inverse"]
        if self.guided is not None:
            terms["guided"] = self.guided(self.inn, x, y, snr_db, generator)
            terms["loss"] = terms["loss"] + self.guided_weight * terms["guided"]
        return terms

    def terms(self, x: Tensor, y: Tensor, snr_db: Tensor) -> dict[str, Tensor]:
        """Both terms of the loss for originals ``x`` and decoded ``y``, in [0, 1]."""
        x, coarse = from_unit(x), self.inn.coarse(from_unit(y))
        c, detail = self.inn(x, snr_db)
        inverse = x.new_zeros(())
        if self.inverse_weight or not self.training:
            inverse = (self.inn.inverse(coarse, detail, snr_db) - x).square().mean()
        return {"imitation": (c - coarse).square().mean(), "inverse": inverse}

    @torch.no_grad()
    def score(self, x: Tensor, snr_db: float) -> dict[str, float]:
        """Validation figures at one SNR: both terms, and (9) of the untrained split."""
        device = next(self.inn.parameters()).device
        y = transmit_all(self.jscc, x, snr_db).to(device)
        x = x.to(device)
        terms = self.terms(x, y, x.new_full((len(x),), snr_db))
        plain = (self.inn.coarse(from_unit(x)) - self.inn.coarse(from_unit(y))).square().mean()
        figures = {name: float(value) for name, value in terms.items()}
        return figures | {"plain split": float(plain)}


def train_inns(
    config: TrainingConfig,
    jscc: JSCC,
    prior: Prior | None,
    data: Path,
    validation: Path,
    runs: Path,
) -> Iterator[tuple[float | None, INN, dict[str, dict[str, float]]]]:
    """Trains (or continues training) the INNs of a bundle, one after the other.

    Yields:
        The SNR that it imitates (None for a conditioned one), the network, and by SNR what
        :meth:`Imitation.score` says on the validation set.
    """
    training = config.inn
    size = config.jscc.architecture.image_size
    images = Images(ImageSource(data), size)
    held_out = load_all(validation, size)
    conditioned = training.architecture.snr_conditioned
    for snr_db in [None] if conditioned else training.snrs_db:
        shown = training.snrs_db if snr_db is None else (snr_db,)

        def validate(
            module: nn.Module, writer: SummaryWriter, step: int, shown: tuple[float, ...] = shown
        ) -> dict[str, float]:
            assert isinstance(module, Imitation)
            scores = {snr: module.score(held_out[:256], snr) for snr in shown}
            picture = _picture(module, held_out[:8], shown[0])
            writer.add_image("x, y, INN^-1(y, d(x))", picture, step)
            return {
                f"{name} at {snr:g} dB": value
                for snr, score in scores.items()
                for name, value in score.items()
            }

        name = "inn-conditioned" if snr_db is None else f"inn{snr_db:+g}dB"
        torch.manual_seed(training.loop.seed)  # of the weights
        objective = Imitation(training, jscc, snr_db, prior)
        trained = train(objective, images, training.loop, runs / config.name / name, validate)
        assert isinstance(trained, Imitation)
        yield snr_db, trained.inn, {f"{snr:g}": trained.score(held_out, snr) for snr in shown}


@torch.no_grad()
def _picture(module: Imitation, x: Tensor, snr_db: float) -> Tensor:
    """Rows: originals, decoded, and originals rebuilt from the decoded and their own detail."""
    device = next(module.inn.parameters()).device
    y = transmit_all(module.jscc, x, snr_db)
    snr = torch.full((len(x),), snr_db, device=device)
    _, detail = module.inn(from_unit(x).to(device), snr)
    coarse = module.inn.coarse(from_unit(y).to(device))
    rebuilt = to_unit(module.inn.inverse(coarse, detail, snr)).cpu()
    picture: Tensor = make_grid(torch.cat([x, y, rebuilt]), len(x))
    return picture
