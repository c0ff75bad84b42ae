"""Sweeps: every scheme at every SNR with every seed on every shard, computed once each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

from evaluation.cache import Cache
from evaluation.catalogue import Catalogue
from evaluation.cells import Arithmetic, Cell, CellResult, Shard, cell_key, compute
from evaluation.schemes import Scheme

# Told which cell, and how many of its images are done, as a fraction.
OnImages = Callable[[Cell, float], None]


@dataclass(frozen=True)
class Plan:
    """What a sweep covers.

    Attributes:
        schemes: Names, in the order of tables and figures.
        snrs_db: SNRs, dB.
        seeds: Seeds of all draws.
        shards: The data set.
    """

    schemes: tuple[str, ...]
    snrs_db: tuple[float, ...]
    seeds: tuple[int, ...]
    shards: tuple[Shard, ...]

    @property
    def cells(self) -> list[Cell]:
        """Every cell once, in the order of tables."""
        grid = product(self.schemes, self.snrs_db, self.seeds, range(len(self.shards)))
        return [Cell(*each) for each in grid]

    @property
    def frames(self) -> int:
        """Images in the data set."""
        return sum(len(shard.frames) for shard in self.shards)


class Backend(Protocol):
    """Where cells are computed."""

    @property
    def arithmetic(self) -> Arithmetic:
        """What the last bits of results depend on there."""

    def run(
        self, cells: Sequence[Cell], shards: Sequence[Shard], on_images: OnImages
    ) -> Iterator[tuple[Cell, CellResult]]:
        """Computes cells and yields them as they are done, in any order.

        Raises:
            CellError: If one cannot be computed.
        """


class Serial:
    """Computes one cell after the other in this process."""

    def __init__(self, catalogue: Catalogue, arithmetic: Arithmetic) -> None:
        self._catalogue = catalogue
        self._arithmetic = arithmetic

    @property
    def arithmetic(self) -> Arithmetic:
        """See :class:`Backend`."""
        return self._arithmetic

    def run(
        self, cells: Sequence[Cell], shards: Sequence[Shard], on_images: OnImages
    ) -> Iterator[tuple[Cell, CellResult]]:
        """See :class:`Backend`."""
        for cell in cells:
            counter = _Counter(cell, on_images)
            scheme, shard = self._catalogue.scheme(cell.scheme), shards[cell.shard]
            yield cell, compute(cell, scheme, shard, self._arithmetic.threads, counter)


class Sweep:
    """A plan whose results are kept as they come, so that it can be interrupted anywhere.

    Arguments:
        plan: What to cover.
        catalogue: Makes the schemes.
        backend: Computes the cells.
        cache: Keeps their results.
    """

    def __init__(self, plan: Plan, catalogue: Catalogue, backend: Backend, cache: Cache) -> None:
        self.plan = plan
        self.catalogue = catalogue
        self._backend = backend
        self._cache = cache
        self._keys = {cell: self._key(cell) for cell in plan.cells}

    def scheme(self, name: str) -> Scheme:
        """The scheme of that name."""
        return self.catalogue.scheme(name)

    def key(self, cell: Cell) -> str:
        """Digest of what determines the cell's result."""
        return self._keys[cell]

    def missing(self) -> list[Cell]:
        """Cells whose results are not there."""
        return [cell for cell, key in self._keys.items() if self._cache.get(key) is None]

    def run(
        self,
        cells: Sequence[Cell],
        on_images: OnImages = lambda cell, images: None,
        on_done: Callable[[Cell], None] = lambda cell: None,
    ) -> None:
        """Computes cells and keeps each result as soon as it is there.

        Raises:
            CellError: If a cell cannot be computed; the results before it are kept.
            CacheError: If a result cannot be kept; those before it are.
        """
        for cell, result in self._backend.run(cells, self.plan.shards, on_images):
            self._cache.put(self._keys[cell], result)
            on_done(cell)

    def result(self, cell: Cell) -> CellResult:
        """The result of a cell.

        Raises:
            KeyError: If it is not there.
        """
        found = self._cache.get(self._keys[cell])
        if found is None:
            raise KeyError(f"no result of {cell}")
        return found

    def _key(self, cell: Cell) -> str:
        scheme, shard = self.catalogue.scheme(cell.scheme), self.plan.shards[cell.shard]
        return cell_key(cell, scheme, shard, self._backend.arithmetic)


class _Counter:
    """Adds up the parts of a cell's frames that are done."""

    def __init__(self, cell: Cell, report: OnImages) -> None:
        self._cell = cell
        self._report = report
        self._done: dict[int, float] = {}

    def __call__(self, frame_id: int, done: float) -> None:
        self._done[frame_id] = done
        self._report(self._cell, sum(self._done.values()))
