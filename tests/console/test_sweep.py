"""``commin evaluate --out``: what it leaves, how it goes on after a stop, what it refuses."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import commin as commin_package
from console.services import running_link
from evaluation import cache as cache_module
from evaluation import cells as cells_module
from evaluation.baselines.linear import LinearAnalogue
from evaluation.images import to_images
from evaluation.metrics import psnr_db
from shared.bundle import write_manifest

Run = Callable[..., Any]

GRID = ("--restorers", "none,commin", "--steps", 3, "--snrs=-5,1", "--seeds", "4,5", "--batch", 2)
CELLS = 2 * 2 * 2 * 2  # restorers, SNRs, seeds, shards of three images


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def images(out: Path) -> list[dict[str, str]]:
    """images.csv without the one column that is a measurement of time."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in table(out / "images.csv")]


def cell_files(out: Path) -> dict[str, int]:
    """Names of the cells' files, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "cells").rglob("*.parquet")}


@pytest.fixture(scope="module")
def swept(bundle: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole sweep, by a process of its own."""
    out = tmp_path_factory.mktemp("swept")
    arguments = [
        "evaluate",
        faces,
        "--bundle",
        bundle,
        *GRID,
        "--out",
        out,
        "--json",
        out / "s.json",
    ]
    command = [sys.executable, "-m", "console", *map(str, arguments)]
    subprocess.run(command, check=True, timeout=240, capture_output=True)
    return out


def test_one_row_for_each_image_scheme_snr_and_seed(swept: Path) -> None:
    rows = images(swept)
    keys = [(row["restorer"], row["snr_db"], row["seed"], row["frame_id"]) for row in rows]
    assert len(set(keys)) == len(keys) == 2 * 2 * 2 * 3
    assert keys[0] == ("none", "-5", "4", "0")
    assert keys[-1] == ("commin", "1", "5", "2")
    assert {(row["restorer"], row["steps"]) for row in rows} == {("none", "0"), ("commin", "3")}
    assert rows[1]["image"] == "grace-hopper.png"
    parquet = pq.read_table(swept / "images.parquet").to_pylist()
    assert [float(row["lpips"]) for row in rows] == [row["lpips"] for row in parquet]
    assert len(cell_files(swept)) == CELLS


def test_means_are_of_the_rows(swept: Path) -> None:
    rows, summary = images(swept), table(swept / "summary.csv")
    assert [(row["restorer"], row["snr_db"], row["n"]) for row in summary] == [
        ("none", "-5", "3"),
        ("none", "1", "3"),
        ("commin", "-5", "3"),
        ("commin", "1", "3"),
    ]
    scores = json.loads((swept / "s.json").read_text())
    for mean, score in zip(summary, scores, strict=True):
        own = [
            r for r in rows if (r["restorer"], r["snr_db"]) == (mean["restorer"], mean["snr_db"])
        ]
        for metric in ("psnr_db", "ssim", "ms_ssim", "lpips"):
            expected = fmean(float(row[metric]) for row in own)
            assert float(mean[metric]) == pytest.approx(expected, rel=1e-12)
            assert float(mean[f"{metric}_low"]) < expected < float(mean[f"{metric}_high"])
        assert (score["psnr_db"], score["lpips"]) == (float(mean["psnr_db"]), float(mean["lpips"]))


def test_scores_are_those_of_the_kept_images(swept: Path, faces: Path) -> None:
    """A cell's file holds what arrived, so that a figure can be drawn again without computing."""
    from evaluation.evaluate import read_frames

    x = to_images([frame.pixels for frame in read_frames(faces, 32)])
    for path in (swept / "cells").rglob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            y = to_images([np.asarray(Image.open(io.BytesIO(row["restored"])))])
            mine = x[row["frame_id"]][None]
            assert float(psnr_db(mine, y)) == pytest.approx(row["psnr_db"], abs=1e-9)


def test_figures_and_report(swept: Path) -> None:
    for name in ("fig4", "fig5"):
        with Image.open(swept / f"{name}.png") as image:
            drawn = np.asarray(image.convert("L"))
        assert min(drawn.shape) > 200
        assert drawn.std() > 10
        assert ElementTree.parse(swept / f"{name}.svg").getroot().tag.endswith("svg")
    page = (swept / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 2
    assert not re.search(r'(src|href)="(?!data:)', page)  # needs no other file
    assert "sha256" in page
    assert "--seeds 4,5" in page
    first = table(swept / "summary.csv")[0]
    assert f"{float(first['psnr_db']):.2f}" in page


def test_rerunning_computes_nothing_and_changes_nothing(
    commin: Run,
    bundle: Path,
    faces: Path,
    swept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a cached cell was computed")

    monkeypatch.setattr("evaluation.sweep.compute", never)
    options = (*GRID, "--out", tmp_path, "--cache", swept / "cells")
    assert commin("evaluate", faces, "--bundle", bundle, *options).returncode == 0
    for name in ("images.csv", "images.parquet", "summary.csv", "fig4.svg", "fig4.png", "fig5.png"):
        assert (tmp_path / name).read_bytes() == (swept / name).read_bytes(), name


def test_computing_again_gives_the_same_bits(
    commin: Run, bundle: Path, faces: Path, swept: Path, tmp_path: Path
) -> None:
    """In another process, with the schemes in another order."""
    options = [*GRID, "--out", tmp_path]
    options[1] = "commin,none"
    assert commin("evaluate", faces, "--bundle", bundle, *options).returncode == 0

    def by_restorer(out: Path) -> list[dict[str, str]]:
        return sorted(images(out), key=lambda row: row["restorer"])

    assert by_restorer(tmp_path) == by_restorer(swept)
    assert cell_files(tmp_path).keys() == cell_files(swept).keys()


@pytest.mark.slow
def test_killed_anywhere_it_goes_on(
    commin: Run, bundle: Path, faces: Path, swept: Path, tmp_path: Path
) -> None:
    """kill -9 after a few cells: they are kept, the others computed, none twice."""
    arguments = ["evaluate", faces, "--bundle", bundle, *GRID, "--out", tmp_path]
    command = [sys.executable, "-m", "console", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 120
    while len(cell_files(tmp_path)) < 3 and time.monotonic() < patience:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = cell_files(tmp_path)
    assert 3 <= len(kept) < CELLS
    assert not (tmp_path / "images.csv").exists()

    assert commin(*arguments).returncode == 0
    now = cell_files(tmp_path)
    assert now.keys() == cell_files(swept).keys()
    assert {name: now[name] for name in kept} == kept  # not computed again
    assert images(tmp_path) == images(swept)


def cached(commin: Run, *arguments: object) -> tuple[int, int]:
    """How many cells ``--dry-run`` says there are, and how many are cached."""
    done = commin("evaluate", *arguments, *GRID, "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    found = re.fullmatch(r"(\d+) cells, (\d+) cached, (\d+) to compute", lines[-1])
    assert found
    assert len(lines) - 1 == int(found[1]) == int(found[2]) + int(found[3])
    assert sum(" cached " in line for line in lines[:-1]) == int(found[2])
    return int(found[1]), int(found[2])


def test_a_changed_bundle_invalidates(
    commin: Run, bundle: Path, faces: Path, swept: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "bundle"
    shutil.copytree(bundle, changed)
    store = ("--cache", swept / "cells")
    assert cached(commin, faces, "--bundle", changed, *store) == (CELLS, CELLS)

    manifest = json.loads((changed / "bundle.json").read_text())
    write_manifest(changed, manifest | {"scores": {"lpips": 0.1}})  # a remark computes nothing
    assert cached(commin, faces, "--bundle", changed, *store) == (CELLS, CELLS)
    guidance = manifest["guidance"] | {"zeta_by_snr_db": {"0": 0.2}}
    write_manifest(changed, manifest | {"guidance": guidance})
    assert cached(commin, faces, "--bundle", changed, *store) == (CELLS, CELLS // 2)  # not none's

    config = changed / "prior" / "config.json"
    config.write_text(config.read_text() + "\n")
    write_manifest(changed, manifest)
    assert cached(commin, faces, "--bundle", changed, *store) == (CELLS, CELLS // 2)

    write_manifest(changed, manifest | {"power": 2.0})
    assert cached(commin, faces, "--bundle", changed, *store) == (CELLS, 0)


@pytest.mark.slow
def test_through_a_link_as_in_process(
    commin: Run, bundle: Path, faces: Path, link: str, tmp_path: Path
) -> None:
    """Three services in processes of their own; an image that cannot be read leaves its id out."""
    data = tmp_path / "data"
    shutil.copytree(faces, data)
    (data / "grace-hopper.png").rename(data / "zhores-alferov.png")
    (data / "grace-hopper.png").write_bytes(b"not an image")
    options = (*GRID, "--out")
    assert commin("evaluate", data, "--bundle", bundle, *options, tmp_path / "a").returncode == 0
    through = commin("evaluate", data, "--link", link, *options, tmp_path / "b")
    assert through.returncode == 0, through.stderr
    here, there = images(tmp_path / "a"), images(tmp_path / "b")
    assert len(here) == len(there) == 2 * 2 * 2 * 3
    scores = ("psnr_db", "ssim", "ms_ssim", "lpips")
    for name in set(here[0]) - set(scores):
        assert [row[name] for row in here] == [row[name] for row in there]
    for name in scores:
        mine, theirs = ([float(row[name]) for row in rows] for rows in (here, there))
        # Batches differ, and a pixel that rounds to the next grey level costs up to 6e-5 dB.
        assert theirs == pytest.approx(mine, abs=1e-3), name
        assert fmean(theirs) == pytest.approx(fmean(mine), abs=1e-4), name
    assert {row["frame_id"] for row in here} == {"0", "2", "3"}


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many smooth images as a randomised PCA to 128 components asks for."""
    folder = tmp_path_factory.mktemp("training")
    draws = np.random.default_rng(0)
    for number in range(170):
        coarse = Image.fromarray(draws.integers(0, 256, (5, 5, 3), np.uint8))
        coarse.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("name", ["linear", "digital"])
def test_a_baseline_beside_restorers(
    commin: Run,
    bundle: Path,
    faces: Path,
    training: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """Fitted once; its kept fit gives the same numbers and can be named instead of the data."""
    pytest.importorskip(f"evaluation.baselines.{name}")
    monkeypatch.setattr("evaluation.baselines.linear.EXACT_UP_TO", 100)  # exact takes seconds
    options = (f"--restorers=none,{name}", "--snrs", "0", "--batch", 2, "--out", tmp_path)
    run = ("evaluate", faces, "--bundle", bundle, *options, "--baseline-data")
    done = commin(*run, training)
    assert done.returncode == 0, done.stderr
    rows = images(tmp_path)
    assert [row["restorer"] for row in rows] == ["none"] * 3 + [name] * 3
    [fit] = (tmp_path / "cells").glob("linear-*.safetensors")
    assert LinearAnalogue.load(fit).symbols == 64
    before = cell_files(tmp_path)
    assert commin(*run, fit).returncode == 0
    assert images(tmp_path) == rows
    assert cell_files(tmp_path) == before


def test_steps_by_name(commin: Run, bundle: Path, faces: Path, tmp_path: Path) -> None:
    options = ("--restorers", "commin:2,commin:3", "--snrs", "0", "--limit", 1, "--out", tmp_path)
    assert commin("evaluate", faces, "--bundle", bundle, *options).returncode == 0
    two, three = images(tmp_path)
    assert (two["restorer"], two["steps"]) == ("commin:2", "2")
    assert (three["restorer"], three["steps"]) == ("commin:3", "3")
    assert two["psnr_db"] != three["psnr_db"]


def test_fig5_of_other_images(
    commin: Run, bundle: Path, faces: Path, swept: Path, tmp_path: Path
) -> None:
    """Two pictures of sizes of their own; the tables are of the data set alone."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (40, 40), (255, 0, 0)).save(pictures / "a.png")
    Image.new("RGB", (64, 48), (0, 0, 255)).save(pictures / "b.png")
    options = (*GRID, "--cache", swept / "cells", "--out", tmp_path, "--figure-data", pictures)
    assert commin("evaluate", faces, "--bundle", bundle, *options).returncode == 0
    assert (tmp_path / "images.csv").read_bytes() == (swept / "images.csv").read_bytes()
    assert (tmp_path / "fig4.png").read_bytes() == (swept / "fig4.png").read_bytes()
    with Image.open(tmp_path / "fig5.png") as image, Image.open(swept / "fig5.png") as before:
        assert image.height < before.height  # a row less
        colours = {colour for _, colour in image.convert("RGB").getcolors(2**24) or ()}
    assert {(255, 0, 0), (0, 0, 255)} <= colours


def write_parquet(path: Path, sizes: list[tuple[int, int]]) -> Path:
    rows = []
    for index, size in enumerate(sizes):
        file = io.BytesIO()
        Image.new("RGB", size, (200, 50 * index, 0)).save(file, "PNG")
        rows.append({"bytes": file.getvalue(), "path": f"{index}.png"})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), path)
    return path


def test_an_empty_data_set(commin: Run, bundle: Path, tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "none.parquet", [])
    done = commin("evaluate", data, "--bundle", bundle)
    assert done.returncode == 1
    assert done.stderr == f"commin: data set {data} holds no images\n"


def test_mixed_sizes(commin: Run, bundle: Path, tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "mixed.parquet", [(40, 40), (40, 40), (64, 48)])
    run = ("evaluate", data, "--bundle", bundle, "--restorers", "none", "--snrs", "0")
    done = commin(*run)
    assert done.returncode == 1
    assert re.search(
        r"mixes sizes: \S+\[0\] 0.png is 40x40 and \S+\[2\] 2.png is 64x48", done.stderr
    )
    assert "--mixed-sizes" in done.stderr
    assert commin(*run, "--mixed-sizes", "--json", tmp_path / "s.json").returncode == 0
    assert json.loads((tmp_path / "s.json").read_text())[0]["n"] == 3


def test_a_bundle_that_was_tampered_with(
    commin: Run, bundle: Path, faces: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    weights = tmp_path / "bundle" / "inn.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    done = commin("evaluate", faces, "--bundle", tmp_path / "bundle")
    assert done.returncode == 1
    assert re.search(r"file inn.safetensors has sha256 \w+, bundle.json says \w+", done.stderr)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--link", "127.0.0.1:1"), "nothing answers at 127.0.0.1:1"),
        (("--restorers", "linear"), "linear has to be fitted: give --baseline-data"),
        (("--restorers", "commin:x"), "restorer 'commin:x': expected NAME or NAME:STEPS"),
        (("--restorers", "commin:1001"), "1001 steps, commin takes 1 to 1000"),
        (("--set-distances",), "3 images, --set-distances needs at least 256"),
        (("--inception", "x.pth"), "--inception needs --set-distances"),
        (("--set-distances", "--inception", "x.pth"), "weights x.pth cannot be read: No such file"),
        (("--figure-snr", "2"), "--figure-snr 2 dB is not among --snrs"),
        (("--workers", "2"), "--workers needs --ray"),
        (("--cache", "/proc/none"), "cache /proc/none cannot be written"),
        (("--tls-cert", "x", "--link", "a:1"), "--tls-cert and --tls-key need --tls-ca"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    commin: Run,
    bundle: Path,
    faces: Path,
    options: tuple[object, ...],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("commin.connect", partial(commin_package.connect, connect_seconds=0.3))
    done = commin("evaluate", faces, "--bundle", bundle, *options)
    assert done.returncode == 1
    assert done.stderr.startswith("commin: ")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_full_disk_keeps_what_is_there(
    commin: Run,
    bundle: Path,
    faces: Path,
    swept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk fills up in the fourth cell, half-way through its file."""
    real, synced = os.fsync, []

    def fsync(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    arguments = ("evaluate", faces, "--bundle", bundle, *GRID, "--out", tmp_path)
    with monkeypatch.context() as full:
        full.setattr(cache_module.os, "fsync", fsync)
        done = commin(*arguments)
    assert done.returncode == 1
    complaint = f"cache {tmp_path / 'cells'} cannot be written: No space left on device; what is in"
    assert complaint in done.stderr
    assert len(cell_files(tmp_path)) == 3
    assert not list((tmp_path / "cells").rglob("*.part"))
    assert commin(*arguments).returncode == 0
    assert images(tmp_path) == images(swept)


def test_a_disk_that_is_full_at_the_end(
    commin: Run,
    bundle: Path,
    faces: Path,
    swept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All cells are there, of the tables and figures three files are: told which one is missing."""
    real, synced = os.fsync, []

    def fsync(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    arguments = ("evaluate", faces, "--bundle", bundle, *GRID, "--out", tmp_path)
    arguments += ("--cache", swept / "cells")
    with monkeypatch.context() as full:
        full.setattr(cache_module.os, "fsync", fsync)
        done = commin(*arguments)
    assert done.returncode == 1
    [complaint] = (line for line in done.stderr.splitlines() if line.startswith("commin: "))
    assert f"No space left on device: '{tmp_path / 'summary.csv'}'" in complaint
    assert {path.name for path in tmp_path.iterdir()} == {
        "images.parquet",
        "images.csv",
        "summary.parquet",
    }
    assert images(tmp_path) == images(swept)
    assert commin(*arguments).returncode == 0
    assert (tmp_path / "fig5.png").exists()


def test_a_disk_too_full_for_the_fit(
    commin: Run,
    bundle: Path,
    faces: Path,
    training: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("evaluation.baselines.linear.EXACT_UP_TO", 100)
    options = ("--restorers", "linear", "--snrs", "0", "--baseline-data", training)
    monkeypatch.setattr(cache_module.os, "fsync", fsync)
    done = commin("evaluate", faces, "--bundle", bundle, *options, "--out", tmp_path)
    assert done.returncode == 1
    assert re.search(r"commin: .*No space left on device: '\S+/linear-\S+'\n", done.stderr)
    assert not list((tmp_path / "cells").iterdir())


@pytest.mark.slow
def test_a_link_lost_on_the_way_keeps_what_is_there(
    commin: Run,
    bundle: Path,
    faces: Path,
    link: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its services end after three cells; through another the command goes on from there."""
    real, sent = commin_package.Link.send, []
    options = (*GRID, "--out", tmp_path)
    with ExitStack() as services, monkeypatch.context() as patch:
        addresses = services.enter_context(running_link(bundle, tmp_path / "logs"))

        def send(self: commin_package.Link, *arguments: Any, **options: Any) -> Any:
            sent.append(self)
            if len(sent) == 4:
                services.close()
            return real(self, *arguments, **options)

        patch.setattr(commin_package.Link, "send", send)
        impatient = partial(commin_package.connect, reconnect_seconds=1)
        patch.setattr(commin_package, "connect", impatient)
        done = commin("evaluate", faces, "--link", addresses.transmitter, *options)
    assert done.returncode == 1
    [complaint] = (line for line in done.stderr.splitlines() if line.startswith("commin: "))
    assert "none at -5 dB, seed 5, shard 1: frame 2 (joe-biden.png): UNAVAILABLE: " in complaint
    kept = cell_files(tmp_path)
    assert len(kept) == 3
    assert commin("evaluate", faces, "--link", link, *options).returncode == 0
    now = cell_files(tmp_path)
    assert len(now) == CELLS
    assert {name: now[name] for name in kept} == kept


def test_a_failing_frame_ends_the_sweep_and_keeps_the_rest(
    commin: Run, bundle: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restorer diverges at the first cell of ``commin``, the ninth of all."""
    from receiver.restorers.commin import CommIN

    real = CommIN.step

    def diverging(self: CommIN, batch: Any) -> None:
        real(self, batch)
        batch[0].x.fill_(torch.nan)

    monkeypatch.setattr(CommIN, "step", diverging)
    done = commin("evaluate", faces, "--bundle", bundle, *GRID, "--out", tmp_path)
    assert done.returncode == 1
    assert "commin at -5 dB, seed 4, shard 0: restoration diverged at step 1" in done.stderr
    assert len(cell_files(tmp_path)) == CELLS / 2


def test_cells_are_computed_with_the_threads_asked_for(
    commin: Run, bundle: Path, faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = cells_module.score

    def score(*arguments: Any) -> Any:
        seen.append(torch.get_num_threads())
        return real(*arguments)

    monkeypatch.setattr(cells_module, "score", score)
    before = torch.get_num_threads()
    options = ("--restorers", "none", "--snrs", "0", "--limit", 1, "--threads", before + 1)
    assert commin("evaluate", faces, "--bundle", bundle, *options).returncode == 0
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
