"""A bundle's restorers as schemes, computed in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evaluation.images import Pixels
from evaluation.local_link import Frame, LocalLink, OnProgress, Settings, check_snr
from evaluation.schemes import SchemeError
from receiver.restorers import restorers_for
from receiver.restorers.base import Restorer
from receiver.settings import Precision
from shared.bundle import Bundle


@dataclass(frozen=True)
class RestorerScheme:
    """DeepJSCC and one restorer, through the services' own code.

    Attributes:
        name: See :class:`evaluation.schemes.Scheme`.
        restorer: The restorer.
        steps: Denoising steps.
        link: The loaded bundle.
    """

    name: str
    restorer: Restorer
    steps: int
    link: LocalLink

    def identity(self) -> Mapping[str, Any]:
        """The restorer and what it uses of the bundle: fields and the sha256 of files."""
        return {
            "kind": "restorer",
            "restorer": self.restorer.name,
            "steps": self.steps,
            "precision": str(self.link.models.dtype),
            "bundle": self.link.bundle.manifest.without(self.restorer.ignores),
        }

    def check(self, snr_db: float) -> None:
        """The bundle must have been trained for the SNR."""
        try:
            check_snr(self.link.bundle, snr_db)
        except ValueError as error:
            raise SchemeError(str(error)) from error

    def send(
        self, frames: Sequence[Frame], snr_db: float, seed: int, on_progress: OnProgress
    ) -> list[Pixels]:
        """See :class:`evaluation.schemes.Scheme`."""
        settings = Settings(self.restorer.name, snr_db, seed, self.steps or None)
        outcomes = self.link.send(frames, settings, on_progress)
        return [outcome.restored for outcome in outcomes]


class BundleRestorers:
    """A loaded bundle's restorers.

    Arguments:
        folder: The bundle's.
        device: Where to compute.
        batch: The most frames that restoration works on at once.
        precision: Of prior and INNs; "auto" is measured, so it may differ between machines.

    Raises:
        BundleError: If the bundle cannot be used.
    """

    def __init__(
        self, folder: Path, device: torch.device, batch: int, precision: Precision = "fp32"
    ) -> None:
        self._link = LocalLink(Bundle.open(folder), device, batch, precision)
        self._restorers = restorers_for(self._link.models)
        self.image_size = self._link.image_size
        self.symbols = self._link.models.symbols
        self.description = f"bundle {self._link.bundle.manifest.name}"

    @property
    def names(self) -> list[str]:
        """The restorers that there are."""
        return list(self._restorers)

    def scheme(self, name: str, restorer: str, steps: int | None) -> RestorerScheme:
        """A scheme called ``name``.

        Raises:
            SchemeError: If the restorer is not in the bundle, or its steps are out of range.
        """
        found = self._restorers.get(restorer)
        if found is None:
            raise not_there(restorer, self.description, self.names)
        steps = checked_steps(restorer, steps, found.default_steps, found.max_steps)
        return RestorerScheme(name, found, steps, self._link)

    def close(self) -> None:
        """Nothing is open."""


def not_there(restorer: str, where: str, names: Sequence[str]) -> SchemeError:
    """A restorer was asked for that there is not."""
    return SchemeError(f"restorer {restorer!r} is not in {where}, there are: {', '.join(names)}")


def checked_steps(restorer: str, asked: int | None, default: int, most: int) -> int:
    """The steps that a restorer makes; 0 for one that makes none.

    Raises:
        SchemeError: If they are out of its range.
    """
    if not most:
        return 0
    steps = default if asked is None else asked
    if not 1 <= steps <= most:
        raise SchemeError(f"{steps} steps, {restorer} takes 1 to {most}")
    return steps
