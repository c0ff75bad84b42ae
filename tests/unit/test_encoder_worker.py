from __future__ import annotations

import numpy as np
import pytest
import torch

from transmitter.worker import to_batch

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
