"""``--ray``: a real cluster of two workers gives the serial run's numbers, whoever dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from evaluation.cache import MemoryCache
from evaluation.catalogue import BundleSource, Catalogue, Recipe
from evaluation.cells import Arithmetic, Cell, CellError, CellResult, make_shards
from evaluation.evaluate import read_frames
from evaluation.ray_backend import RayBackend, ray_cluster
from evaluation.sweep import Plan, Serial, Sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
pytest.importorskip("ray")


def test_no_cluster() -> None:
    """First: a process has one cluster at a time."""
    with pytest.raises(ConnectionError, match="no Ray cluster at"), ray_cluster("127.0.0.1:1"):
        pass


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with ray_cluster("local", workers=2) as module:
        yield module


@pytest.fixture(scope="module")
def catalogue(bundle: Path) -> Iterator[Catalogue]:
    with Recipe(BundleSource(bundle, "cpu", batch=2), steps=4).opened() as opened:
        yield opened


@pytest.fixture(scope="module")
def plan(faces: Path) -> Plan:
    shards = make_shards(read_frames(faces, 32), 2)
    return Plan(("none", "commin"), (-5.0, 0.0, 5.0), (0, 1), tuple(shards))


def numbers(sweep: Sweep) -> dict[Cell, Any]:
    """Everything of every result but the time that it took."""
    results = {cell: sweep.result(cell) for cell in sweep.plan.cells}
    return {cell: (each.frame_ids, each.scores, each.restored) for cell, each in results.items()}


@pytest.fixture(scope="module")
def serial(plan: Plan, catalogue: Catalogue) -> dict[Cell, Any]:
    sweep = Sweep(plan, catalogue, Serial(catalogue, Arithmetic("cpu")), MemoryCache())
    sweep.run(sweep.missing())
    return numbers(sweep)


def test_same_bits_as_serial(
    ray: Any, plan: Plan, catalogue: Catalogue, serial: dict[Cell, Any]
) -> None:
    backend = RayBackend(ray, catalogue.recipe)
    assert backend.arithmetic == Arithmetic("cpu", 1)
    assert len({ray.get(actor.process_id.remote()) for actor in backend.actors}) == 2
    sweep = Sweep(plan, catalogue, backend, MemoryCache())
    sweep.run(sweep.missing())
    assert numbers(sweep) == serial


def test_a_killed_worker_costs_its_cells_only(
    ray: Any, plan: Plan, catalogue: Catalogue, serial: dict[Cell, Any]
) -> None:
    backend = RayBackend(ray, catalogue.recipe)
    before = [ray.get(actor.process_id.remote()) for actor in backend.actors]
    puts: list[str] = []

    class Counting(MemoryCache):
        def put(self, key: str, result: CellResult) -> None:
            puts.append(key)
            super().put(key, result)

    def kill_one(cell: Cell) -> None:
        if len(puts) == 3:
            os.kill(before[0], signal.SIGKILL)

    sweep = Sweep(plan, catalogue, backend, Counting())
    sweep.run(sweep.missing(), on_done=kill_one)
    after = [ray.get(actor.process_id.remote()) for actor in backend.actors]
    assert after[0] != before[0]  # it was started again
    assert after[1] == before[1]
    assert sorted(puts) == sorted(sweep.key(cell) for cell in plan.cells)  # none lost or doubled
    assert numbers(sweep) == serial


def test_an_error_on_a_worker_is_told(ray: Any, plan: Plan, catalogue: Catalogue) -> None:
    backend = RayBackend(ray, catalogue.recipe, workers=1)
    wrong: Sequence[Cell] = [Cell("magic", 0.0, 0, 0)]
    with pytest.raises(CellError, match="restorer 'magic' is not in bundle tiny"):
        list(backend.run(wrong, plan.shards, lambda cell, images: None))


def test_on_a_running_cluster(
    ray: Any, commin_process: Any, bundle: Path, faces: Path, tmp_path: Path
) -> None:
    """The command, from a process of its own, against the cluster's address."""
    grid = ("--restorers", "none,commin", "--steps", 2, "--snrs", "0", "--batch", 2)
    run = ("evaluate", faces, "--bundle", bundle, "--device", "cpu", *grid, "--out")
    address = ray.get_runtime_context().gcs_address
    assert commin_process(*run, tmp_path / "ray", "--ray", address).returncode == 0
    assert commin_process(*run, tmp_path / "serial").returncode == 0

    def numbers_of(out: Path) -> list[str]:
        return [line.rpartition(",")[0] for line in (out / "images.csv").read_text().splitlines()]

    assert len(numbers_of(tmp_path / "ray")) == 1 + 2 * 3
    assert numbers_of(tmp_path / "ray") == numbers_of(tmp_path / "serial")
