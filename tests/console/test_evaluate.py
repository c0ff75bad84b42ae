"""``commin evaluate``: its numbers, its file, and what it refuses."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from channel.awgn import awgn
from evaluation.evaluate import read_frames
from evaluation.images import to_images
from evaluation.local_link import Frame, LocalLink, Settings
from evaluation.metrics import lpips, psnr_db
from receiver.decoder import Decoder
from receiver.engine import Engine
from receiver.models import load_receiver
from receiver.restorers.commin import CommIN
from shared.bundle import Bundle
from shared.draws import Purpose, generator, unit_complex_normal
from transmitter.encoder import load_encoder

Run = Callable[..., Any]
CPU = torch.device("cpu")


def test_rows_are_what_the_link_gives(
    commin_process: Run, bundle: Path, faces: Path, tmp_path: Path
) -> None:
    """The row of ``none``, computed again from the networks and the formulas alone."""
    file = tmp_path / "sub" / "rows.json"
    options = ("--snrs=-5,2.5", "--restorers", "none,commin", "--steps", 3, "--seed", 4)
    done = commin_process("evaluate", faces, "--bundle", bundle, *options, "--json", file)
    assert done.returncode == 0
    rows = json.loads(file.read_text())
    assert [(row["restorer"], row["snr_db"], row["n"]) for row in rows] == [
        ("none", -5, 3),
        ("none", 2.5, 3),
        ("commin", -5, 3),
        ("commin", 2.5, 3),
    ]
    assert set(rows[0]) == {"restorer", "snr_db", "psnr_db", "lpips", "n", "seconds_per_image"}
    assert all(row["seconds_per_image"] > 0 for row in rows)

    opened = Bundle.open(bundle)
    x = to_images([frame.pixels for frame in read_frames(faces, 32)])
    snr = torch.full((3,), -5.0)
    with torch.no_grad():
        z = load_encoder(opened, CPU)(x, snr).numpy()
        noise = [unit_complex_normal(generator(4, i, Purpose.CHANNEL), 64) for i in range(3)]
        noisy = torch.from_numpy(awgn(z, -5.0, np.stack(noise)))
        y = load_receiver(opened, CPU).decoder(noisy, snr).mul(255).round().div(255)
    assert rows[0]["psnr_db"] == pytest.approx(float(psnr_db(x, y).mean()), abs=0.01)
    assert rows[0]["lpips"] == pytest.approx(float(lpips(x, y).mean()), abs=0.002)


def test_draws_belong_to_the_frame(bundle: Path, faces: Path) -> None:
    """Neither company nor order changes what a frame meets; seed and id do."""
    link = LocalLink(Bundle.open(bundle), CPU, max_batch=2)
    frames = read_frames(faces, 32)
    cell = Settings("commin", snr_db=0, seed=1, steps=3)
    together = link.send(frames, cell)
    [alone] = link.send(frames[2:], cell)
    assert abs(together[2].restored.astype(int) - alone.restored.astype(int)).max() <= 1
    [renamed] = link.send([Frame(9, frames[2].pixels)], cell)
    [reseeded] = link.send(frames[2:], Settings("commin", snr_db=0, seed=2, steps=3))
    for other in (renamed, reseeded):
        assert abs(alone.decoded.astype(int) - other.decoded.astype(int)).max() > 1


def test_batches_are_whole(bundle: Path, faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network sees the same batches however slowly frames arrive: bits depend on them."""
    decoded: list[int] = []
    stepped: list[list[int]] = []
    decode, enqueue = Decoder.forward, Engine._enqueue

    def slow_enqueue(self: Engine, *task: Any) -> None:
        enqueue(self, *task)
        time.sleep(0.02)

    def count(self: Decoder, z: torch.Tensor, snr_db: torch.Tensor) -> torch.Tensor:
        decoded.append(len(z))
        return decode(self, z, snr_db)

    class Recording(CommIN):
        def step(self, batch: Any) -> None:
            stepped.append([each.noise.frame_id for each in batch])
            super().step(batch)

    monkeypatch.setattr(Engine, "_enqueue", slow_enqueue)
    monkeypatch.setattr(Decoder, "forward", count)
    monkeypatch.setattr("receiver.restorers.CommIN", Recording)
    frames = [Frame(i, read_frames(faces, 32)[i % 3].pixels) for i in range(7)]
    link = LocalLink(Bundle.open(bundle), CPU, max_batch=3)
    outcomes = link.send(frames, Settings("commin", snr_db=0, steps=2))
    assert decoded == [3, 3, 1]
    assert stepped == [[0, 1, 2]] * 2 + [[3, 4, 5]] * 2 + [[6]] * 2
    monkeypatch.undo()
    for mine, other in zip(outcomes, link.send(frames, Settings("commin", 0, 0, 2)), strict=True):
        assert (mine.restored == other.restored).all()


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(file, "PNG")
    return file.getvalue()


def test_a_corrupt_image_is_named_and_left_out(
    commin: Run, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [png((200, 0, 0)), b"not an image", png((0, 200, 0))]
    column = pa.array([{"bytes": row, "path": f"face{i}.png"} for i, row in enumerate(rows)])
    data = tmp_path / "faces.parquet"
    pq.write_table(pa.table({"image": column}), data)
    options = ("--restorers", "none", "--snrs", "0", "--json", tmp_path / "rows.json")
    done = commin("evaluate", data, "--bundle", bundle, *options)
    assert done.returncode == 0
    assert "face1.png: not a readable" in caplog.text
    assert json.loads((tmp_path / "rows.json").read_text())[0]["n"] == 2
    assert [frame.frame_id for frame in read_frames(data, 32)] == [0, 2]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--restorers", "none,magic"), "restorer 'magic' is not in bundle tiny"),
        (("--snrs", "-5,7"), "SNR 7 dB, bundle tiny takes -5 to 5 dB"),
        (("--restorers", "commin", "--steps", 1001), "1001 steps, commin takes 1 to 1000"),
        (("--bundle", "/nowhere"), "bundle /nowhere: no readable bundle.json"),
        (("--device", "cuda:99"), "device 'cuda:99' cannot be used"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    commin: Run, bundle: Path, faces: Path, options: tuple[object, ...], complaint: str
) -> None:
    done = commin("evaluate", faces, "--bundle", bundle, *options)
    assert done.returncode == 1
    assert done.stderr.startswith("commin: ")
    assert complaint in done.stderr


def test_data_that_is_not_there(commin: Run, bundle: Path, tmp_path: Path) -> None:
    for data, complaint in [
        (tmp_path / "absent.parquet", "does not exist"),
        (tmp_path, "holds no images"),
    ]:
        done = commin("evaluate", data, "--bundle", bundle)
        assert done.returncode == 1
        assert f"data set {data} {complaint}" in done.stderr
