"""Photographs as the link takes them: decoded with limits, upright, RGB, square."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 50_000_000
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit would hide the one checked here

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class ImageError(ValueError):
    """An image that cannot be used; the text names the value and the limit."""


def decode_image(data: bytes, size: int, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decodes an encoded image and prepares it for a bundle.

    The EXIF orientation is applied, the centre square cut out and resized (Lanczos).

    Arguments:
        data: A whole PNG, JPEG or WebP file.
        size: Height and width of the result, pixels.
        max_pixels: The most pixels the file may decode to, checked before decoding.

    Returns:
        RGB, uint8, with shape (size, size, 3).

    Raises:
        ImageError: If the data is no such image, is truncated, animated, not 8 bits a channel,
            not grey or RGB (alpha is dropped over black), has no pixels, or exceeds
            ``max_pixels``.
    """
    if not data:
        raise ImageError("0 bytes, expected a PNG, JPEG or WebP file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:  # whose own text names a buffer in memory
        text = f"not a readable PNG, JPEG or WebP file: it begins with {data[:12]!r}"
        raise ImageError(text) from error
    except (Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ImageError(f"not a readable PNG, JPEG or WebP file: {error}") from error
    with image:
        _check_header(image, max_pixels)
        try:
            image.load()
            upright = ImageOps.exif_transpose(image)
        except Exception as error:  # Pillow's decoders raise many types on damaged data
            raise ImageError(f"damaged or truncated {image.format} file: {error}") from error
        square = ImageOps.fit(upright.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
        return np.asarray(square)


def _check_header(image: ImageFile.ImageFile, max_pixels: int) -> None:
    """Rejects what the size and mode alone rule out, before any pixel is decoded."""
    width, height = image.size
    if width * height == 0:
        raise ImageError(f"{width}x{height} pixels, expected at least 1x1")
    if width * height > max_pixels:
        raise ImageError(
            f"{width}x{height} = {width * height} pixels, the limit is {max_pixels} pixels"
        )
    # A multi-picture JPEG (MPO) is a photograph with previews or depth maps behind it.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ImageError(f"animated with {frames} frames, expected a still image")
    if any(";16" in str(tile.args) for tile in image.tile):  # colour would lose its low bytes
        raise ImageError("16 bits a channel, expected at most 8 (convert it first)")
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise ImageError(f"colour mode {image.mode}, expected 8-bit grey or RGB (convert it first)")
