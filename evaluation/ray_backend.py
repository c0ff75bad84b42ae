"""Computes cells on a Ray cluster: models live in actors, results come back to this process."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from evaluation.catalogue import Catalogue, Recipe
from evaluation.cells import Arithmetic, Cell, CellError, CellResult, Shard, compute
from evaluation.sweep import OnImages

# How often a cell is tried again when the worker that has it dies: one that kills every worker
# (by the memory that it takes, most likely) must not go round for ever.
RETRIES = 3
CONNECT_SECONDS = 10.0


class Worker:
    """What an actor does: keeps what a recipe loads, and computes cells with it."""

    def __init__(self, recipe: Recipe, threads: int) -> None:
        self._threads = threads
        self._open = recipe.opened()
        self._catalogue: Catalogue = self._open.__enter__()

    def compute(self, cell: Cell, shard: Shard) -> CellResult:
        """See :func:`evaluation.cells.compute`."""
        return compute(cell, self._catalogue.scheme(cell.scheme), shard, self._threads)

    def process_id(self) -> int:
        """Of the process that the actor is in."""
        return os.getpid()


class RayBackend:
    """Spreads cells over actors; one that dies is started again and its cell computed again.

    Arguments:
        ray: The module, connected to a cluster.
        recipe: What the actors open.
        threads: Threads of torch in each.
        workers: Number of actors; None for one on each GPU, or CPU if there are none.
        device: "auto" or "cuda" to take GPUs where there are any.
    """

    def __init__(
        self,
        ray: Any,
        recipe: Recipe,
        threads: int = 1,
        workers: int | None = None,
        device: str = "auto",
    ) -> None:
        self._ray = ray
        resources = ray.cluster_resources()
        gpus = 0 if device == "cpu" else int(resources.get("GPU", 0))
        self._arithmetic = Arithmetic("cuda" if gpus else "cpu", threads)
        count = workers or gpus or max(1, int(resources.get("CPU", 1)) // threads)
        actor = ray.remote(
            num_gpus=1 if gpus else 0,
            num_cpus=0 if gpus else threads,
            max_restarts=-1,  # machines come and go
            max_task_retries=RETRIES,
        )(Worker)
        self._recipe = ray.put(recipe)  # held: an actor that is started again asks for it again
        self.actors = [actor.remote(self._recipe, threads) for _ in range(count)]

    @property
    def arithmetic(self) -> Arithmetic:
        """See :class:`evaluation.sweep.Backend`."""
        return self._arithmetic

    def run(
        self, cells: Sequence[Cell], shards: Sequence[Shard], on_images: OnImages
    ) -> Iterator[tuple[Cell, CellResult]]:
        """See :class:`evaluation.sweep.Backend`."""
        ray = self._ray
        held = {index: ray.put(shards[index]) for index in {cell.shard for cell in cells}}
        waiting = iter(cells)
        running: dict[Any, tuple[Any, Cell]] = {}

        def give(actor: Any) -> None:
            cell = next(waiting, None)
            if cell is not None:
                running[actor.compute.remote(cell, held[cell.shard])] = actor, cell

        for actor in self.actors:
            give(actor)
        while running:
            [done], _ = ray.wait(list(running), num_returns=1)
            actor, cell = running.pop(done)
            result = self._fetch(done, cell)
            give(actor)  # before the result is dealt with: nobody waits for a disk
            on_images(cell, float(len(result.frame_ids)))
            yield cell, result

    def _fetch(self, reference: Any, cell: Cell) -> CellResult:
        ray = self._ray
        try:
            result: CellResult = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, CellError) else CellError(f"{cell}: {cause}") from None
        except ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise CellError(f"{cell}: its worker was lost for good: {lines[0]}") from None
        return result


@contextmanager
def ray_cluster(address: str, workers: int | None = None) -> Iterator[Any]:
    """Connects to a cluster for as long as the block lasts; yields the ``ray`` module.

    Arguments:
        address: As ``ray.init`` takes it: "local" for a cluster that is started here and ends with
            the block, "auto" for the one that runs here, host:port or ray://host:port.
        workers: CPUs of a local cluster; None for what the machine has.

    Raises:
        ConnectionError: If there is no such cluster.
        ModuleNotFoundError: If Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        options |= {"num_cpus": workers, "include_dashboard": False}
    try:
        _reach(address)
        ray.init(address=address, **options)
    except (ConnectionError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConnectionError(f"no Ray cluster at {address}: {lines[0]}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises ConnectionError if nothing answers there: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:  # local or auto
        return
    if not port.isdecimal():
        raise ConnectionError(f"port {port!r} is not a number")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"nothing answers ({error})") from error
