"""Schemes by name. A catalogue can be pickled, and loads what a scheme needs where it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from commin import TLSFiles
from evaluation.baselines.linear import LinearAnalogue
from evaluation.baselines.schemes import NAMES as BASELINES
from evaluation.baselines.schemes import baseline_scheme
from evaluation.link_schemes import LinkRestorers
from evaluation.restorer_schemes import BundleRestorers
from evaluation.schemes import Scheme, SchemeError
from receiver.settings import Precision
from shared.weights import pick_device


class Restorers(Protocol):
    """Where restorers come from: a bundle or a link."""

    image_size: int
    symbols: int
    description: str

    @property
    def names(self) -> list[str]:
        """The restorers that there are."""

    def scheme(self, name: str, restorer: str, steps: int | None) -> Scheme:
        """A restorer as a scheme."""

    def close(self) -> None:
        """Ends what is open."""


@dataclass(frozen=True)
class BundleSource:
    """A bundle to compute with; see :class:`BundleRestorers`. ``device`` may be "auto"."""

    folder: Path
    device: str = "auto"
    batch: int = 16
    precision: Precision = "fp32"

    def open(self) -> Restorers:
        """Loads it."""
        return BundleRestorers(self.folder, pick_device(self.device), self.batch, self.precision)


@dataclass(frozen=True)
class LinkSource:
    """A running link; see :class:`LinkRestorers`."""

    target: str
    tls: TLSFiles

    def open(self) -> Restorers:
        """Connects to it."""
        return LinkRestorers(self.target, self.tls)


Source = BundleSource | LinkSource


@dataclass(frozen=True)
class Recipe:
    """All that it takes to make schemes, on any machine that has the bundle or reaches the link.

    Attributes:
        source: Where restorers come from.
        steps: Denoising steps of restorers whose name gives none; None for their default.
        fit: What the baselines need; None if there are none.
    """

    source: Source
    steps: int | None = None
    fit: LinearAnalogue | None = None

    @contextmanager
    def opened(self) -> Iterator[Catalogue]:
        """Loads what restorers need, for as long as the block lasts."""
        restorers = self.source.open()
        try:
            yield Catalogue(self, restorers)
        finally:
            restorers.close()


class Catalogue:
    """Makes schemes of names such as ``commin``, ``commin:250`` (250 steps) or ``linear``.

    Arguments:
        recipe: What it was opened from.
        restorers: Loaded.
    """

    def __init__(self, recipe: Recipe, restorers: Restorers) -> None:
        self.recipe = recipe
        self.restorers = restorers
        self._made: dict[str, Scheme] = {}

    def add_fit(self, fit: LinearAnalogue) -> None:
        """From here on the baselines can be made."""
        self.recipe = replace(self.recipe, fit=fit)

    def scheme(self, name: str) -> Scheme:
        """The scheme of that name.

        Raises:
            SchemeError: If there is none, or it cannot do what is asked.
        """
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Scheme:
        if name in BASELINES:
            if self.recipe.fit is None:
                raise SchemeError(f"{name} has to be fitted: give --baseline-data")
            return baseline_scheme(name, self.recipe.fit)
        restorer, _, steps = name.partition(":")
        return self.restorers.scheme(name, restorer, _steps(name, steps) or self.recipe.steps)


def _steps(name: str, text: str) -> int | None:
    if not text and ":" not in name:
        return None
    if not text.isdecimal() or not int(text):
        raise SchemeError(f"restorer {name!r}: expected NAME or NAME:STEPS")
    return int(text)


def is_baseline(name: str) -> bool:
    """Whether the scheme is a baseline, which has to be fitted."""
    return name in BASELINES
