"""Arrays on the wire: numpy to the ``Tensor`` message and, with every check, back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commin.v1 import tensor_pb2

# Little-endian whatever the machine: a no-op on nearly all of them.
WIRE: dict[tensor_pb2.Dtype.ValueType, np.dtype[Any]] = {
    tensor_pb2.DTYPE_UINT8: np.dtype("<u1"),
    tensor_pb2.DTYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DTYPE_COMPLEX64: np.dtype("<c8"),
}
CODES = {(dtype.kind, dtype.itemsize): code for code, dtype in WIRE.items()}

MOST_BYTES = np.iinfo(np.intp).max  # of an array

Scalar = type[np.generic]


class TensorError(ValueError):
    """A tensor that cannot be used.

    Attributes:
        field: The name of the tensor, as given to :func:`decode`.
        description: What is wrong with it: the value and the limit.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


def encode(array: NDArray[Any]) -> tensor_pb2.Tensor:
    """Packs an array of any shape (0-d and empty ones too) and memory layout.

    Raises:
        TypeError: If its element type has no place on the wire.
    """
    tensor = tensor_pb2.Tensor()
    encode_into(tensor, array)
    return tensor


def encode_into(tensor: tensor_pb2.Tensor, array: NDArray[Any]) -> None:
    """Packs an array where its message is to be: a message that is put into another is copied.

    Raises:
        TypeError: If its element type has no place on the wire.
    """
    tensor.data = describe_into(tensor, array).tobytes()  # tobytes writes C order


def describe_into(tensor: tensor_pb2.Tensor, array: NDArray[Any]) -> NDArray[Any]:
    """Sets all but the data, which the caller sends in another way; see ``commin.wire``.

    Returns:
        The elements as they are sent, in the array's own memory layout.

    Raises:
        TypeError: If its element type has no place on the wire.
    """
    code = CODES.get((array.dtype.kind, array.dtype.itemsize))
    if code is None:
        raise TypeError(f"element type {array.dtype}, expected {_names(WIRE.values())}")
    tensor.dtype = code
    tensor.shape[:] = array.shape
    return array.astype(WIRE[code], copy=False)


def decode(
    tensor: tensor_pb2.Tensor,
    *,
    dtype: Scalar | tuple[Scalar, ...],
    shape: tuple[int | None, ...],
    max_bytes: int,
    field: str,
    finite: bool = True,
    data: bytes | memoryview | None = None,
) -> NDArray[Any]:
    """Unpacks a tensor that came over the wire, trusting nothing it says.

    Arguments:
        tensor: The message.
        dtype: The element type, or types, that are accepted here.
        shape: The length of each axis; ``None`` accepts any.
        max_bytes: The most bytes of data.
        field: What errors call the tensor.
        finite: Reject NaN and infinity.
        data: The elements, where they came apart from the message; see ``commin.wire``.

    Returns:
        The elements, read-only and not copied out of the data.

    Raises:
        TensorError: If the tensor is not what was asked for, or disagrees with itself.
    """
    stored = _check_dtype(tensor.dtype, dtype, field)
    sizes = tuple(tensor.shape)
    _check_shape(sizes, shape, field)
    data = tensor.data if data is None else data  # the message's is a copy each time
    _check_length(len(data), sizes, stored.itemsize, max_bytes, field)
    array = np.frombuffer(data, stored).reshape(sizes)
    if finite:
        check_finite(array, field)
    return array


def _check_dtype(code: int, allowed: Scalar | tuple[Scalar, ...], field: str) -> np.dtype[Any]:
    wanted = [np.dtype(a) for a in (allowed if isinstance(allowed, tuple) else (allowed,))]
    stored = next((known for value, known in WIRE.items() if value == code), None)
    if stored is None or stored not in wanted:
        known = code in tensor_pb2.Dtype.values()
        name = tensor_pb2.Dtype.Name(tensor_pb2.Dtype.ValueType(code)) if known else str(code)
        raise TensorError(field, f"dtype {name}, expected {_names(wanted)}")
    return stored


def _check_shape(sizes: tuple[int, ...], wanted: tuple[int | None, ...], field: str) -> None:
    expected = f"expected ({', '.join('any' if w is None else str(w) for w in wanted)})"
    if len(sizes) != len(wanted):
        raise TensorError(field, f"{len(sizes)} axes, {expected}")
    if any(size < 0 or want not in (None, size) for size, want in zip(sizes, wanted, strict=True)):
        raise TensorError(field, f"shape {sizes}, {expected}")


def _check_length(
    length: int, sizes: tuple[int, ...], itemsize: int, max_bytes: int, field: str
) -> None:
    needed = math.prod(sizes) * itemsize  # Python's integers do not overflow
    span = math.prod(size for size in sizes if size) * itemsize  # numpy's must not, even if empty
    if max(needed, length) > max_bytes or span > MOST_BYTES:
        raise TensorError(
            field, f"shape {sizes} and {length} bytes of data, the limit is {max_bytes} bytes"
        )
    if length != needed:
        raise TensorError(field, f"{length} bytes of data, shape {sizes} needs {needed}")


def check_finite(array: NDArray[Any], field: str) -> None:
    """Passes over an array of finite numbers.

    Raises:
        TensorError: If there are others; it names the first.
    """
    if array.dtype.kind == "u":
        return
    wrong = ~np.isfinite(array)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise TensorError(field, f"element {index} is {array[index]}, expected finite numbers")


def _names(dtypes: Any) -> str:
    return " or ".join(dtype.name for dtype in dtypes)
