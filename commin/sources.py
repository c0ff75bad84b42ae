"""What can be sent: files, bytes, arrays, Pillow images; and making requests of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from commin import tensors
from commin.v1 import transmitter_pb2

# A path, a whole encoded file, an array (H, W, 3), or a PIL.Image.Image.
Image: TypeAlias = "str | os.PathLike[str] | bytes | NDArray[Any] | Any"


# An array this small takes less time to copy than to be handed to a thread and back.
FEW_BYTES = 2**16


class SourceError(ValueError):
    """An image that cannot be made a request of."""


def name_of(image: Image, index: int) -> str:
    """What results call the image: its path, or its position among the images."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    return getattr(image, "filename", "") or str(index)


def make_request(image: Image, frame_id: int) -> transmitter_pb2.TransmitRequest:
    """The request for an image, options left open.

    Files and bytes go as they are; the transmitter decodes them.

    Raises:
        SourceError: If a file cannot be read, or nothing is known to do with the object.
    """
    request = transmitter_pb2.TransmitRequest(frame_id=frame_id)
    if isinstance(image, (str, os.PathLike)):
        try:
            request.encoded = Path(image).read_bytes()
        except OSError as error:
            raise SourceError(f"cannot read {os.fspath(image)}: {error.strerror}") from error
    elif isinstance(image, (bytes, bytearray, memoryview)):
        request.encoded = bytes(image)
    elif isinstance(image, np.ndarray):
        tensors.encode_into(request.pixels, _wire_array(image))
    else:
        tensors.encode_into(request.pixels, _pillow_array(image))
    return request


def _wire_array(array: NDArray[Any]) -> NDArray[Any]:
    """Floats as float32; what other types mean as pixels cannot be known."""
    if array.dtype == np.uint8:
        return array
    if np.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32)
    raise SourceError(f"array of {array.dtype}, expected uint8, or floats in [0, 1]")


def _pillow_array(image: Any) -> NDArray[Any]:
    """A Pillow image as upright 8-bit RGB."""
    # Only programs that have Pillow pass its images.
    if not type(image).__module__.startswith("PIL."):
        raise SourceError(
            f"{type(image).__name__} object, expected a path, bytes, an array or a Pillow image"
        )
    from PIL import ImageOps

    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise SourceError(f"colour mode {image.mode}, expected 8-bit grey or RGB")
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


async def prepare(image: Image, frame_id: int) -> transmitter_pb2.TransmitRequest:
    """See :func:`make_request`; what may take long happens on a thread."""
    if isinstance(image, np.ndarray) and image.nbytes <= FEW_BYTES:
        return make_request(image, frame_id)
    return await asyncio.to_thread(make_request, image, frame_id)


async def each(images: Iterable[Image] | AsyncIterable[Image]) -> AsyncGenerator[Image, None]:
    """The images one by one; a lazy iterable is advanced on a thread, as it may block."""
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
        return
    if isinstance(images, (list, tuple)):
        for image in images:
            yield image
        return
    iterator, end = iter(images), object()
    while (image := await asyncio.to_thread(next, iterator, end)) is not end:
        yield image
