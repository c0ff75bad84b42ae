"""Separation-based digital transmission: what the channel carries is never exceeded."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from evaluation.baselines.digital import (
    CODECS,
    Codec,
    Coding,
    DigitalSeparation,
    Headers,
    payload_bits,
    sides,
)
from evaluation.images import to_images

SAMPLES = Path(__file__).parents[2] / "models" / "faces64" / "samples"
NAMES = ("eileen-collins", "grace-hopper", "joe-biden", "barack-obama")
FREE = {codec.name: codec for codec in CODECS["free"]}


def faces(side: int) -> Tensor:
    photographs = [Image.open(SAMPLES / f"{name}.png").convert("RGB") for name in NAMES]
    return to_images([np.asarray(image.resize((side, side))) for image in photographs])


def scheme(symbols: int, headers: Headers = "free", *codecs: Codec) -> DigitalSeparation:
    return DigitalSeparation(symbols, faces(32).mean(0), headers, codecs or None)


def mse(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().mean((1, 2, 3))


@pytest.mark.parametrize(
    ("symbols", "snr_db", "bits"),
    [
        (256, 0.0, 256),  # log2(2) = 1
        (100, 10 * math.log10(3), 200),  # log2(4) = 2
        (7, 10 * math.log10(31), 35),  # log2(32) = 5
        (256, -5.0, 101),  # 256 log2(1.31623) = 101.48
        (256, 5.0, 526),  # 256 log2(4.16228) = 526.69
    ],
)
def test_payload_is_capacity(symbols: int, snr_db: float, bits: int) -> None:
    assert payload_bits(symbols, snr_db + 1e-9) == bits


@pytest.mark.parametrize("headers", ["free", "counted"])
def test_nothing_fits_in_very_few_symbols(headers: Headers) -> None:
    digital = scheme(8, headers)
    received, codings = digital.transmit(faces(32), 0.0)
    assert codings == [None] * len(NAMES)
    for image in received:
        torch.testing.assert_close(image, digital.mean)


@pytest.mark.parametrize("headers", ["free", "counted"])
def test_very_many_symbols_lose_nothing(headers: Headers) -> None:
    x = faces(32)
    received = scheme(100_000, headers).send(x, 20.0, range(len(x)), seed=1)
    torch.testing.assert_close(received, x)  # lossless WebP


@settings(max_examples=30)
@given(
    symbols=st.integers(1, 2000),
    snr_db=st.floats(-10, 20),
    headers=st.sampled_from(["free", "counted"]),
)
def test_the_payload_is_never_exceeded(symbols: int, snr_db: float, headers: Headers) -> None:
    x = faces(16)[:2]
    digital = DigitalSeparation(symbols, x.mean(0), headers)
    received, codings = digital.transmit(x, snr_db)
    for image, shown, coding in zip(x, received, codings, strict=True):
        if coding is None:
            torch.testing.assert_close(shown, digital.mean)
            continue
        assert coding.bits <= symbols * math.log2(1 + 10 ** (snr_db / 10))
        assert coding.bits == size_of(image, coding, digital)


def size_of(image: Tensor, coding: Coding, digital: DigitalSeparation) -> int:
    """The coding's size in bits, from coding the image again."""
    pixels = image.mul(255).round().byte().permute(1, 2, 0).numpy()
    thumbnail = Image.fromarray(pixels).resize((coding.side,) * 2, Image.Resampling.LANCZOS)
    codec = next(c for c in CODECS[digital.headers] if c.name == coding.codec)
    file = codec.encode(thumbnail, coding.quality)
    if digital.headers == "counted":
        return 8 * len(file)
    return 8 * codec.body(file) + digital.naming_bits


@pytest.mark.parametrize("headers", ["free", "counted"])
@pytest.mark.parametrize("symbols", [256, 1500])
def test_the_best_is_no_worse_than_any_alone(headers: Headers, symbols: int) -> None:
    x = faces(32)
    # Naming one of fewer codecs takes fewer bits, which the best is given on top.
    best = mse(x, scheme(symbols + 10, headers).send(x, 5.0))
    for codec in CODECS[headers]:
        alone, codings = scheme(symbols, headers, codec).transmit(x, 5.0)
        assert (best <= mse(x, alone) + 1e-6).all(), codec.name
        assert {coding.codec for coding in codings if coding} <= {codec.name}
    assert (best <= mse(x, scheme(0).mean.expand_as(x)) + 1e-6).all()


def test_more_symbols_bring_the_image_nearer() -> None:
    x = faces(32)
    errors = [float(mse(x, scheme(k).send(x, 0.0)).mean()) for k in (50, 200, 800, 3200, 12_800)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 20 * errors[-1]


@pytest.mark.parametrize(("name", "varying"), [("jpeg", 0), ("webp", 4), ("avif", 6)])
def test_free_headers_are_known_beforehand(name: str, varying: int) -> None:
    """Outside the counted bytes, files of different images differ in their length fields alone."""
    codec = FREE[name]
    photographs = [Image.open(SAMPLES / f"{face}.png").convert("RGB") for face in NAMES[:2]]
    files = [codec.encode(image.resize((24, 24)), 40) for image in photographs]
    trailer = 2 if name == "jpeg" else 0  # EOI
    heads = [file[: len(file) - codec.body(file) - trailer] for file in files]
    assert codec.body(files[0]) > 20
    if name == "webp":  # the frame tag, which counts, stands before the start code and the size
        heads = [file[:20] + file[23:30] for file in files]
    assert len(heads[0]) == len(heads[1])
    assert sum(a != b for a, b in zip(*heads, strict=True)) <= varying


def test_a_scan_is_what_a_jpeg_decoder_needs() -> None:
    """A file put together from another image's headers and the scan decodes to the image."""
    jpeg = FREE["jpeg"]
    one, other = (Image.open(SAMPLES / f"{face}.png").convert("RGB") for face in NAMES[:2])
    own, foreign = (jpeg.encode(image.resize((24, 24)), 40) for image in (one, other))
    scan = own[len(own) - jpeg.body(own) - 2 :]
    joined = foreign[: len(foreign) - jpeg.body(foreign) - 2] + scan
    with Image.open(io.BytesIO(joined)) as a, Image.open(io.BytesIO(own)) as b:
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_ids_and_seed_change_nothing() -> None:
    x = faces(16)
    digital = DigitalSeparation.fit(x, 256)
    assert torch.equal(digital.mean, x.mean(0))
    first, again = digital.send(x, 1.0, [0, 1, 2, 3], 0), digital.send(x, 1.0, [9, 8, 7, 6], 5)
    assert torch.equal(first, again)


def test_sides() -> None:
    assert sides(1) == [1]
    assert sides(64) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert sides(20) == [1, 2, 3, 4, 6, 8, 12, 16, 20]
