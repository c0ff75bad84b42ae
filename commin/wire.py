"""Messages with one large tensor, written and read with its elements set apart.

protobuf copies a bytes field when it is set, written, read and got. For megabytes of symbols that
takes longer than drawing their noise, so here they go straight between a message's bytes on the
wire and an array. What is on the wire is the same message: of a message field that occurs twice,
readers merge both parts, so the elements may follow the rest of their tensor.

Source: protobuf.dev/programming-guides/encoding, "Last One Wins" and "Message Structure".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from commin.v1 import tensor_pb2

# protobuf copies fewer bytes than these in less time than it takes to look for them here.
FEW_BYTES = 2**15

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
DATA = tensor_pb2.Tensor.DESCRIPTOR.fields_by_name["data"].number


class FrameMessage(Protocol):
    """A message about one frame."""

    frame_id: int

    def SerializeToString(self) -> bytes:  # noqa: N802  # protobuf's name
        """The message as bytes."""

    def ByteSize(self) -> int:  # noqa: N802  # protobuf's name
        """How many bytes that makes."""


M = TypeVar("M", bound=FrameMessage)


@dataclass(frozen=True)
class Parcel(Generic[M]):
    """A message and, apart from it, the elements of its tensor.

    Attributes:
        message: The message; its tensor has no data.
        data: What the tensor's data would be: an array in C order, or memory.
    """

    message: M
    data: Any

    @property
    def frame_id(self) -> int:
        """The frame's id."""
        return self.message.frame_id

    def ByteSize(self) -> int:  # noqa: N802  # protobuf's name
        """About how many bytes are sent: all but a few."""
        return self.message.ByteSize() + memoryview(self.data).nbytes


class Packer(Generic[M]):
    """Writes and reads parcels of one type of message.

    Arguments:
        kind: The type.
        field: Name of the field that holds its tensor.
    """

    def __init__(self, kind: type[M], field: str) -> None:
        self._parse: Callable[[bytes], M] = kind.FromString  # type: ignore[attr-defined]
        self._name = field
        self._field: int = kind.DESCRIPTOR.fields_by_name[field].number  # type: ignore[attr-defined]

    def write(self, parcel: Parcel[M]) -> bytes:
        """The bytes of the whole message; the elements are copied once."""
        size = memoryview(parcel.data).nbytes
        start = key(DATA, LENGTH) + varint(size)
        part = key(self._field, LENGTH) + varint(len(start) + size) + start
        return b"".join((parcel.message.SerializeToString(), part, parcel.data))

    def read(self, raw: bytes) -> Parcel[M]:
        """The message, and where its tensor's elements lie in ``raw``: they are not copied.

        Raises:
            google.protobuf.message.DecodeError: If ``raw`` is no such message.
        """
        if len(raw) > FEW_BYTES:
            try:
                rest, data = self._take_apart(raw)
            except (IndexError, ValueError):
                pass  # let protobuf judge
            else:
                return Parcel(self._parse(rest), data)
        message = self._parse(raw)
        tensor: tensor_pb2.Tensor = getattr(message, self._name)
        elements = tensor.data
        tensor.ClearField("data")
        return Parcel(message, memoryview(elements))

    def _take_apart(self, raw: bytes) -> tuple[bytes, memoryview]:
        """All but the elements, and the elements."""
        whole = memoryview(raw)
        rest, data = bytearray(), whole[:0]
        for number, first, value, end in fields(whole):
            if number != self._field or raw[first] & 7 != LENGTH:
                rest += whole[first:end]
                continue
            tensor, kept = whole[value:end], bytearray()
            for inner, start, content, stop in fields(tensor):
                if inner == DATA and tensor[start] & 7 == LENGTH:
                    data = tensor[content:stop]
                else:
                    kept += tensor[start:stop]
            rest += key(self._field, LENGTH) + varint(len(kept)) + kept
        return bytes(rest), data


def fields(message: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """A message's fields: number, and where the field, its value and the next field begin.

    Raises:
        IndexError: If the message ends within a field.
        ValueError: If a field cannot be passed over.
    """
    first = 0
    while first < len(message):
        tag, value = read_varint(message, first)
        number, kind = tag >> 3, tag & 7
        if kind == LENGTH:
            length, value = read_varint(message, value)
            end = value + length
        elif kind == VARINT:
            _, end = read_varint(message, value)
        elif kind in (FIXED32, FIXED64):
            end = value + (4 if kind == FIXED32 else 8)
        else:
            raise ValueError(f"wire type {kind}")
        if end > len(message):
            raise IndexError
        yield number, first, value, end
        first = end


def key(number: int, kind: int) -> bytes:
    """What a field begins with."""
    return varint(number << 3 | kind)


def varint(value: int) -> bytes:
    """A number, seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """The number at a position, and where it ends.

    Raises:
        IndexError: If the message ends before the number does.
        ValueError: If it is longer than 64 bits take.
    """
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("varint over 10 bytes")
