"""Pixel arrays brought to the bundle's size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.images import ImageError


def prepare_pixels(pixels: NDArray[Any], size: int, max_pixels: int) -> NDArray[Any]:
    """Cuts out the centre square and resizes it (Lanczos), unless it has the size already.

    Arguments:
        pixels: RGB, uint8 or finite float32 in [0, 1], with shape (H, W, 3).
        size: Height and width of the result, pixels.
        max_pixels: The most pixels that ``pixels`` may have.

    Returns:
        RGB of the same element type with shape (size, size, 3).

    Raises:
        ImageError: If there are no pixels or too many, or a value lies outside [0, 1].
    """
    height, width, _ = pixels.shape
    if height * width == 0:
        raise ImageError(f"{width}x{height} pixels, expected at least 1x1")
    if height * width > max_pixels:
        raise ImageError(
            f"{width}x{height} = {width * height} pixels, the limit is {max_pixels} pixels"
        )
    if pixels.dtype == np.uint8:
        return resize(centre_square(pixels), size)
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        raise ImageError(f"values from {low:g} to {high:g}, expected float32 in [0, 1]")
    square = centre_square(pixels)
    channels = [resize(square[..., channel], size) for channel in range(3)]
    prepared: NDArray[Any] = np.stack(channels, axis=-1).clip(0, 1)  # Lanczos overshoots
    return prepared


def centre_square(pixels: NDArray[Any]) -> NDArray[Any]:
    """The largest square in the middle."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def resize(square: NDArray[Any], size: int) -> NDArray[Any]:
    """Lanczos-resized to (size, size, ...): RGB uint8, or one channel of float32."""
    if len(square) == size:
        return square
    image = Image.fromarray(np.ascontiguousarray(square))
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))
