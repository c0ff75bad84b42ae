from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch

from transmitter.worker import EncoderWorker, to_batch

CPU = torch.device("cpu")


@pytest.mark.parametrize("floats", [0, 1, 3])
def test_bytes_and_floats_of_one_image_make_one_input(floats: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    images = [
        each.astype(np.float32) / np.float32(255) if i < floats else each
        for i, each in enumerate(pixels)
    ]
    batch = to_batch(images, CPU)
    assert batch.dtype is torch.float32
    assert batch.shape == (3, 3, 8, 8)
    assert np.array_equal(batch[1, 2].numpy(), pixels[1, :, :, 2] / np.float32(255))
    assert batch.is_contiguous(memory_format=torch.channels_last)


class Network(torch.nn.Module):
    """Stands in for the encoder: each image's mean as its one symbol."""

    def forward(self, x: torch.Tensor, snr_db: torch.Tensor) -> torch.Tensor:
        return torch.complex(x.mean((1, 2, 3)), snr_db)[:, None]


async def encode_in_a_trickle(worker: EncoderWorker, count: int) -> list[int]:
    """Hands over images one by one; what came back for each, in order."""
    images = [np.full((2, 2, 3), index, np.uint8) for index in range(count)]
    tasks = []
    for image in images:
        tasks.append(asyncio.create_task(worker.encode(image, 1.0)))
        await asyncio.sleep(0)
    rows = await asyncio.gather(*tasks)
    return [round(float(row[0].real) * 255) for row in rows]


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So long that a busy machine does not matter."""
    monkeypatch.setattr("transmitter.worker.GAP_SECONDS", 5.0)
    monkeypatch.setattr("transmitter.worker.GATHER_SECONDS", 20.0)


@pytest.mark.usefixtures("_patient")
async def test_images_that_come_one_by_one_share_runs_while_more_are_in_flight() -> None:
    batches: list[int] = []
    worker = EncoderWorker(Network(), CPU, 4, batches.append, in_flight=lambda: 8)  # type: ignore[arg-type]
    assert await encode_in_a_trickle(worker, 8) == list(range(8))
    await worker.close()
    assert batches == [4, 4]


@pytest.mark.usefixtures("_patient")
async def test_an_image_waits_for_nothing_when_no_other_frame_is_in_flight() -> None:
    worker = EncoderWorker(Network(), CPU, 4, in_flight=lambda: 1)  # type: ignore[arg-type]
    async with asyncio.timeout(4):
        assert await encode_in_a_trickle(worker, 1) == [0]
    await worker.close()


@pytest.mark.usefixtures("_patient")
async def test_closing_does_not_wait_for_more() -> None:
    batches: list[int] = []
    worker = EncoderWorker(Network(), CPU, 4, batches.append, in_flight=lambda: 9)  # type: ignore[arg-type]
    waiting = asyncio.create_task(encode_in_a_trickle(worker, 3))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(4):
        await worker.close()
        assert await waiting == [0, 1, 2]
    assert batches == [3]
