r"""Separation-based digital transmission: an image codec behind an ideal channel code.

The channel code is idealised: it achieves capacity at any length and never fails, so k complex
channel uses carry :math:`\lfloor k \log_2(1 + \mathrm{SNR}) \rfloor` bits free of errors. No real
code of a few hundred symbols does; what is measured is a ceiling for the digital side.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evaluation.images import Pixels, to_images

Headers = Literal["counted", "free"]

QUALITIES = range(0, 101, 4)
# Sizes grow with the side from here on; below, block sizes and padding decide them.
GROWING_FROM = 8


def payload_bits(symbols: int, snr_db: float) -> int:
    r"""What the channel carries: :math:`\lfloor k \log_2(1 + 10^{\mathrm{SNR}/10}) \rfloor` bits.

    Arguments:
        symbols: k, complex channel uses.
        snr_db: Signal-to-noise ratio of a complex symbol, eq. (4), dB.
    """
    return math.floor(symbols * math.log2(1 + 10 ** (snr_db / 10)))


@dataclass(frozen=True)
class Codec:
    """One way to write an image.

    Attributes:
        name: For tables.
        encode: A whole file of a thumbnail at a quality, 0 to 100.
        body: The bytes of such a file that a receiver cannot know beforehand, once it knows codec,
            side and quality.
        qualities: Rising; one without a choice has a single entry.
    """

    name: str
    encode: Callable[[Image.Image, int], bytes]
    body: Callable[[bytes], int]
    qualities: Sequence[int] = QUALITIES


@dataclass(frozen=True)
class Coding:
    """What is sent for one image: which codec, at which side in pixels and quality, in bits."""

    codec: str
    side: int
    quality: int
    bits: int


def _jpeg(image: Image.Image, quality: int, own_tables: bool = False) -> bytes:
    """Huffman tables of the image's own shorten the file, but none are then known beforehand."""
    # A block of chroma for each block of luma is fewer blocks where the image is just one.
    subsampling = "4:4:4" if image.width <= 8 else "4:2:0"
    return _file(image, "JPEG", quality=quality, subsampling=subsampling, optimize=own_tables)


def _webp(image: Image.Image, quality: int) -> bytes:
    return _file(image, "WEBP", quality=quality, method=4)


def _webp_lossless(image: Image.Image, quality: int) -> bytes:
    return _file(image, "WEBP", lossless=True, quality=quality, method=4)


def _avif(image: Image.Image, quality: int) -> bytes:
    return _file(image, "AVIF", quality=quality, speed=6, max_threads=1)


def _file(image: Image.Image, container: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, container, **options)
    return buffer.getvalue()


def jpeg_scan(file: bytes) -> int:
    """Bytes of entropy-coded data in a baseline JPEG file; its tables follow from the quality."""
    position = 2  # after SOI
    while file[position + 1] != 0xDA:  # SOS
        position += 2 + int.from_bytes(file[position + 2 : position + 4], "big")
    start = position + 2 + int.from_bytes(file[position + 2 : position + 4], "big")
    return len(file) - start - 2  # EOI


def webp_data(file: bytes) -> int:
    """Bytes of a WebP file's only chunk, but for the signature and the dimensions that it repeats.

    Source: RFC 6386, section 9.1; RFC 9649, sections 2.5, 2.6 and 3.4.
    """
    kind, length = file[12:16], int.from_bytes(file[16:20], "little")
    fixed = {b"VP8 ": 7, b"VP8L": 5}  # start code, width, height; signature to version
    return length - fixed[kind]


def avif_frame(file: bytes) -> int:
    """Bytes of the frame in an AVIF file; boxes and sequence header follow from the dimensions.

    Source: AV1 Bitstream & Decoding Process Specification, section 5.3 (OBU syntax).
    """
    position = file.index(b"mdat") + 4
    return sum(length for kind, length in _open_bitstream_units(file[position:]) if kind == 6)


def _open_bitstream_units(data: bytes) -> Iterator[tuple[int, int]]:
    """Type and length in bytes of each unit; libavif gives all of them a size field."""
    position = 0
    while position < len(data):
        kind, extended = data[position] >> 3 & 15, data[position] >> 2 & 1
        position += 1 + extended
        length, shift = 0, 0
        while True:  # leb128
            byte = data[position]
            position += 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        yield kind, length
        position += length


WEBP = Codec("webp", _webp, webp_data)
WEBP_LOSSLESS = Codec("webp-lossless", _webp_lossless, webp_data, (80,))
AVIF = Codec("avif", _avif, avif_frame)
CODECS: dict[Headers, tuple[Codec, ...]] = {
    "free": (Codec("jpeg", _jpeg, jpeg_scan), WEBP, WEBP_LOSSLESS, AVIF),
    "counted": (Codec("jpeg", partial(_jpeg, own_tables=True), len), WEBP, WEBP_LOSSLESS, AVIF),
}


@dataclass(frozen=True)
class DigitalSeparation:
    r"""The best of JPEG, WebP and AVIF within the payload that capacity allows.

    Each image is shrunk (Lanczos) to one of several sides, coded, and enlarged again (bicubic);
    the codec, side and quality that fit and come nearest to the original are sent. At k = 256
    the payload is 12 to 65 bytes, less than the headers of an empty file, so two readings are
    offered:

    ``"counted"``
        A file is a file: every byte of it counts.
    ``"free"``
        The reading that favours the digital side most and can still be decoded: sender and
        receiver have agreed on every header, so only what depends on the pixels counts
        (JPEG's scan, WebP's partitions, AV1's frame), plus the bits that name the codec, side and
        quality among all that there are. Fractions of a byte count as a byte.

    Where nothing fits, the receiver shows the mean image (an outage), and so it does where
    whatever fits is further from the original than that.

    Attributes:
        symbols: k, complex channel uses per image.
        mean: The data set's mean image, (3, H, H) in [0, 1].
        headers: See above.
        codecs: The codecs to choose from; None for all.
    """

    symbols: int
    mean: Tensor
    headers: Headers = "free"
    codecs: tuple[Codec, ...] | None = None

    @classmethod
    def fit(cls, x: Tensor, symbols: int, headers: Headers = "free") -> DigitalSeparation:
        """With the mean of training images ``x``, (N, 3, H, H) in [0, 1], for k symbols."""
        return cls(symbols, x.mean(0), headers)

    def send(
        self, x: Tensor, snr_db: float, frame_ids: Sequence[int] = (), seed: int = 0
    ) -> Tensor:
        """The receiver's images, (N, 3, H, H) in [0, 1], of ``x`` sent at an SNR in dB.

        Nothing is random, so ``frame_ids`` and ``seed`` change nothing; other schemes need them.
        """
        return self.transmit(x, snr_db)[0]

    def transmit(self, x: Tensor, snr_db: float) -> tuple[Tensor, list[Coding | None]]:
        """As :meth:`send`, with what was sent for each image; None for the mean image."""
        budget = payload_bits(self.symbols, snr_db)
        received, codings = [], []
        for pixels in _to_pixels(x):
            best, shown = self._best(pixels, budget)
            received.append(self.mean if shown is None else to_images([shown])[0])
            codings.append(best)
        return torch.stack(received), codings

    def _best(self, pixels: Pixels, budget: int) -> tuple[Coding | None, Pixels | None]:
        """The coding that comes nearest to an image, and what it decodes to."""
        mean = _to_pixels(self.mean[None])[0]
        best: tuple[Coding | None, Pixels | None] = (None, None)
        least = _distance(pixels, mean)
        for coding, file in self._fitting(Image.fromarray(pixels), budget):
            shown = _enlarged(file, len(pixels))
            if (distance := _distance(pixels, shown)) < least:
                least, best = distance, (coding, shown)
        return best

    def _fitting(self, image: Image.Image, budget: int) -> Iterator[tuple[Coding, bytes]]:
        """For each codec and side the best quality that fits, by bisection, with its file."""
        for codec in self._codecs:
            for side in sides(image.width):
                thumbnail = image.resize((side, side), Image.Resampling.LANCZOS)
                found = self._highest_quality(codec, thumbnail, budget)
                if found is None and side >= GROWING_FROM:
                    break
                if found is not None:
                    yield found

    def _highest_quality(
        self, codec: Codec, thumbnail: Image.Image, budget: int
    ) -> tuple[Coding, bytes] | None:
        found = None
        fitting, failing = -1, len(codec.qualities)
        tried = 0  # most often not even the lowest quality fits
        while fitting < tried < failing:
            quality = codec.qualities[tried]
            file = codec.encode(thumbnail, quality)
            bits = self._size(codec, file)
            if bits <= budget:
                fitting = tried
                found = Coding(codec.name, thumbnail.width, quality, bits), file
            else:
                failing = tried
            tried = (fitting + failing) // 2
        return found

    def _size(self, codec: Codec, file: bytes) -> int:
        """What a file costs, bits."""
        if self.headers == "counted":
            return 8 * len(file)
        return 8 * codec.body(file) + self.naming_bits

    @property
    def naming_bits(self) -> int:
        """Bits that tell codec, side and quality among all that there are, and the mean image."""
        choices = sum(len(codec.qualities) for codec in self._codecs)
        return math.ceil(math.log2(1 + choices * len(sides(self.mean.shape[-1]))))

    @property
    def _codecs(self) -> tuple[Codec, ...]:
        return CODECS[self.headers] if self.codecs is None else self.codecs


def sides(full: int) -> list[int]:
    """Sides to shrink to, pixels, rising: powers of two, what lies half-way, and ``full``."""
    powers = [2**n for n in range(full.bit_length())]
    between = [3 * power // 2 for power in powers[1:]]
    return sorted({side for side in (*powers, *between) if side < full} | {full})


def _enlarged(file: bytes, side: int) -> Pixels:
    with Image.open(io.BytesIO(file)) as image:
        whole = image.convert("RGB")
        if whole.width != side:
            whole = whole.resize((side, side), Image.Resampling.BICUBIC)
        return np.asarray(whole)


def _distance(x: Pixels, y: Pixels) -> float:
    """Mean squared difference, in squared grey levels."""
    return float(np.square(x.astype(np.int32) - y).mean())


def _to_pixels(x: Tensor) -> list[Pixels]:
    """RGB in [0, 1], (N, 3, H, H), as uint8, (H, H, 3) each."""
    rounded = x.mul(255).round().clamp(0, 255).to(torch.uint8)
    return list(rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy())
