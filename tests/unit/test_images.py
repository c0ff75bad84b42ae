"""Photographs: what must come out upright, square and RGB, and what must be refused by name."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.Image import Exif

from shared.images import ImageError, Pixels, decode_image

SIZE = 8
RED, GREEN, BLUE, GREY = (250, 5, 5), (5, 250, 5), (5, 5, 250), (120, 120, 120)
ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quarters(size: int = 64) -> Image.Image:
    """Four flat colours, all different, so that any turn or mirror shows."""
    corners = np.array([[RED, GREEN], [BLUE, GREY]], np.uint8)
    return Image.fromarray(corners.repeat(size // 2, 0).repeat(size // 2, 1))


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def corners(pixels: Pixels) -> list[list[int]]:
    return [pixels[y, x].astype(int).tolist() for y, x in ((1, 1), (1, -2), (-2, 1), (-2, -2))]


def assert_quarters(pixels: Pixels, tolerance: int = 8) -> None:
    assert pixels.shape == (SIZE, SIZE, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(corners(pixels), [RED, GREEN, BLUE, GREY], atol=tolerance)


def assert_all_green(pixels: Pixels) -> None:
    """But for what the filter takes from across the edges of the cut."""
    np.testing.assert_allclose(pixels.astype(int), np.broadcast_to(GREEN, (SIZE, SIZE, 3)), atol=20)


def png(width: int, height: int, bit_depth: int, colour_type: int, rows: bytes = b"") -> bytes:
    """A PNG written by hand, for what Pillow will not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 95}),
        ("WEBP", {"quality": 95}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_formats(kind: str, options: dict[str, Any]) -> None:
    assert_quarters(decode_image(encoded(quarters(), kind, **options), SIZE))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    """The picture is stored turned and mirrored as a camera would; decoding undoes it."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # shown after a turn by 270 degrees counter-clockwise
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = quarters().transpose(undo[orientation]) if orientation > 1 else quarters()
    exif = Exif()
    exif[ORIENTATION] = orientation
    assert_quarters(decode_image(encoded(stored, kind, exif=exif), SIZE))


def test_orientation_is_applied_before_the_square_is_cut() -> None:
    wide = Image.new("RGB", (96, 32), RED)
    wide.paste(GREEN, (32, 0, 64, 32))  # the centre square
    exif = Exif()
    exif[ORIENTATION] = 6
    pixels = decode_image(encoded(wide, "PNG", exif=exif), SIZE)
    assert_all_green(pixels)


@pytest.mark.parametrize("size", [(96, 32), (32, 96)])
def test_the_centre_square_is_cut(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, RED)
    left, top = ((side - 32) // 2 for side in size)
    image.paste(GREEN, (left, top, left + 32, top + 32))
    pixels = decode_image(encoded(image), SIZE)
    assert_all_green(pixels)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 500), (500, 1), (65, 63)])
def test_any_shape_gives_the_size_asked_for(size: tuple[int, int]) -> None:
    assert decode_image(encoded(noise(*size)), SIZE).shape == (SIZE, SIZE, 3)


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    image = noise(SIZE, SIZE)
    np.testing.assert_array_equal(decode_image(encoded(image), SIZE), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_becomes_three_equal_channels(mode: str) -> None:
    image = ImageOps.grayscale(noise(SIZE, SIZE)).convert(mode)
    pixels = decode_image(encoded(image), SIZE)
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], np.asarray(image.convert("L")))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_dropped(kind: str) -> None:
    opaque = quarters()
    faded = opaque.copy()
    faded.putalpha(Image.linear_gradient("L").resize(opaque.size).point(lambda a: a // 2 + 100))
    assert_quarters(decode_image(encoded(faded, kind, lossless=True), SIZE))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("transparency", [None, 0, b"\x00\x80\xff"])
def test_palettes_become_rgb(transparency: int | bytes | None) -> None:
    image = quarters().quantize(4)
    options: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
    assert_quarters(decode_image(encoded(image, **options), SIZE))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_less_than_eight_bits(bits: int) -> None:
    white = b"".join(b"\x00" + b"\xff" * (SIZE * bits // 8) for _ in range(SIZE))
    assert (decode_image(png(SIZE, SIZE, bits, 0, white), SIZE) == 255).all()


def test_a_multi_picture_jpeg_is_a_photograph() -> None:
    """Phones write a second picture (a preview, a depth map) behind the first."""
    data = encoded(quarters(), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    assert_quarters(decode_image(data, SIZE), tolerance=12)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"hello",
        b"<html></html>",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"RIFF\x04\0\0\0WEBP",
    ],
)
def test_what_is_not_an_image_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match=r"not a readable PNG, JPEG or WebP file"):
        decode_image(data, SIZE)


def test_no_data_is_refused() -> None:
    with pytest.raises(ImageError, match="0 bytes"):
        decode_image(b"", SIZE)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(ImageError, match=r"not a readable PNG, JPEG or WebP file") as caught:
        decode_image(encoded(noise(32, 32), kind), SIZE)
    assert "0x" not in str(caught.value)  # no memory address for the user to puzzle over


def test_an_animated_gif_renamed_is_refused() -> None:
    data = encoded(noise(32, 32), "GIF", save_all=True, append_images=[quarters(32)])
    with pytest.raises(ImageError, match=r"not a readable PNG, JPEG or WebP file"):
        decode_image(data, SIZE)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(kind: str) -> None:
    data = encoded(
        noise(32, 32), kind, save_all=True, append_images=[quarters(32), Image.new("RGB", (32, 32))]
    )
    with pytest.raises(ImageError, match="animated with 3 frames"):
        decode_image(data, SIZE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.98])
def test_truncated_files_are_refused(kind: str, part: float) -> None:
    data = encoded(noise(64, 64), kind)
    with pytest.raises(ImageError, match=r"truncated|not a readable"):
        decode_image(data[: int(len(data) * part)], SIZE)


def test_cmyk_is_refused() -> None:
    with pytest.raises(ImageError, match="colour mode CMYK"):
        decode_image(encoded(noise(32, 32).convert("CMYK"), "JPEG"), SIZE)


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_a_channel_are_refused(colour_type: int, channels: int) -> None:
    rows = (b"\x00" + b"\x12\x34" * channels * SIZE) * SIZE
    with pytest.raises(ImageError, match="16"):
        decode_image(png(SIZE, SIZE, 16, colour_type, rows), SIZE)


@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 8), (8, 0)])
def test_an_image_without_pixels_is_refused(width: int, height: int) -> None:
    with pytest.raises(ImageError):
        decode_image(png(width, height, 8, 2), SIZE)


def test_the_pixel_limit() -> None:
    data = encoded(noise(40, 30))
    assert decode_image(data, SIZE, max_pixels=1200).shape == (SIZE, SIZE, 3)
    with pytest.raises(ImageError, match=r"40x30 = 1200 pixels, the limit is 1199 pixels"):
        decode_image(data, SIZE, max_pixels=1199)


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000, 2**31 - 1])
def test_decompression_bombs_are_refused_before_decoding(side: int) -> None:
    """At 8 000 Pillow keeps silent, at 12 000 it would warn, at 60 000 it raises of itself."""
    with pytest.raises(ImageError, match=rf"{side}|decompression bomb"):
        decode_image(png(side, side, 8, 2), SIZE)


def test_a_limit_above_pillows_own_counts() -> None:
    """Raising the limit works: a flat image over Pillow's default of 89 million pixels."""
    rows = (b"\x00" + bytes(10_000)) * 9_000
    data = png(10_000, 9_000, 8, 0, rows)
    assert decode_image(data, SIZE, max_pixels=100_000_000).shape == (SIZE, SIZE, 3)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=300)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP"]),
    edits=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8
    ),
)
def test_damage_gives_an_image_or_an_image_error(kind: str, edits: list[tuple[float, int]]) -> None:
    exif = Exif()
    exif[ORIENTATION] = 6
    data = bytearray(encoded(noise(16, 16), kind, exif=exif))
    for position, value in edits:
        data[int(position * len(data))] = value
    with contextlib.suppress(ImageError):
        assert decode_image(bytes(data), SIZE).shape == (SIZE, SIZE, 3)
