"""Images as requests carry them, prepared for the encoder on a few threads."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commin import tensors
from commin.v1 import transmitter_pb2
from shared.errors import invalid
from shared.images import ImageError, decode_image
from transmitter.pixels import prepare_pixels

# Pixels this few take less time to prepare than to be handed to a thread and back.
FEW_BYTES = 2**16


@dataclass(frozen=True)
class ImageLimits:
    """What an image may be.

    Attributes:
        size: Height and width that images are brought to, pixels.
        max_bytes: Most bytes, as a file or as pixels.
        max_pixels: Most pixels before they are brought to size.
    """

    size: int
    max_bytes: int
    max_pixels: int


def prepare(request: transmitter_pb2.TransmitRequest, limits: ImageLimits) -> NDArray[Any]:
    """The request's image: RGB, square, of the bundle's size; float if it came as such.

    Raises:
        FrameError: If there is none or it cannot be used.
    """
    kind = request.WhichOneof("image")
    if kind is None:
        raise invalid("image", "neither encoded nor pixels is set")
    try:
        if kind == "encoded":
            _check_bytes("encoded", len(request.encoded), limits)
            return decode_image(request.encoded, limits.size, limits.max_pixels)
        return prepare_pixels(_pixels(request, limits), limits.size, limits.max_pixels)
    except ImageError as error:
        raise invalid(kind, str(error)) from error
    except tensors.TensorError as error:
        raise invalid(error.field, error.description) from error


def _pixels(request: transmitter_pb2.TransmitRequest, limits: ImageLimits) -> NDArray[Any]:
    return tensors.decode(
        request.pixels,
        dtype=(np.uint8, np.float32),
        shape=(None, None, 3),
        max_bytes=limits.max_bytes,
        field="pixels",
    )


def _check_bytes(field: str, length: int, limits: ImageLimits) -> None:
    if length > limits.max_bytes:
        raise invalid(field, f"{length} bytes, the limit is {limits.max_bytes} bytes")


class Preparer:
    """Prepares images on threads, and says when another one may be read from a stream.

    Requests are large until their images are prepared, so few may wait for that.

    Arguments:
        limits: What an image may be.
        threads: Images prepared at the same time.
    """

    def __init__(self, limits: ImageLimits, threads: int) -> None:
        self._limits = limits
        self._most = 2 * threads
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="images")
        self._waiting = 0
        self._room = asyncio.Event()
        self._room.set()

    async def room(self) -> None:
        """Waits until few enough images are waiting."""
        await self._room.wait()

    async def prepare(self, request: transmitter_pb2.TransmitRequest) -> NDArray[Any]:
        """See :func:`prepare`."""
        if request.WhichOneof("image") == "pixels" and request.pixels.ByteSize() <= FEW_BYTES:
            return prepare(request, self._limits)
        self._waiting += 1
        self._update()
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, prepare, request, self._limits)
        finally:
            self._waiting -= 1
            self._update()

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(wait=False)

    def _update(self) -> None:
        if self._waiting < self._most:
            self._room.set()
        else:
            self._room.clear()
