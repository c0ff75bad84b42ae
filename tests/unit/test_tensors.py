"""The tensor codec: every array survives the wire, and no corrupted tensor gets through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from commin.tensors import WIRE, TensorError, decode, encode
from commin.v1 import tensor_pb2
from commin.v1.tensor_pb2 import DTYPE_COMPLEX64, DTYPE_FLOAT32, DTYPE_UINT8, Tensor

SCALARS = (np.uint8, np.float32, np.complex64)
MAX_BYTES = 1 << 20
Array = NDArray[Any]

arrays = st.sampled_from(SCALARS).flatmap(
    lambda scalar: hnp.arrays(
        scalar, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
    )
)


def read(tensor: Tensor, like: Array, **changes: Any) -> Array:
    """Decodes, by default, exactly what ``like`` should come back as."""
    wanted: dict[str, Any] = {
        "dtype": like.dtype.type,
        "shape": like.shape,
        "max_bytes": MAX_BYTES,
        "field": "image",
        "finite": False,
    }
    return decode(tensor, **wanted | changes)


def rejected(tensor: Tensor, like: Array, **changes: Any) -> str:
    with pytest.raises(TensorError) as caught:
        read(tensor, like, **changes)
    assert caught.value.field == "image"
    assert str(caught.value) == f"image: {caught.value.description}"
    return caught.value.description


@given(arrays)
def test_round_trip(array: Array) -> None:
    back = read(Tensor.FromString(encode(array).SerializeToString()), array)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()  # bit for bit, NaN payloads too
    assert not back.flags.writeable


@given(arrays, st.randoms())
def test_round_trip_of_any_memory_layout(array: Array, random: Any) -> None:
    axes = list(range(array.ndim))
    random.shuffle(axes)
    view = array.transpose(axes)[..., ::-1] if array.ndim else array
    np.testing.assert_array_equal(read(encode(view), view), view)


@pytest.mark.parametrize(
    ("array", "dtype", "data"),
    [
        (np.array([1, 255], ">u1"), DTYPE_UINT8, "01ff"),
        (np.array([1.0, -2.5], "<f4"), DTYPE_FLOAT32, "0000803f000020c0"),
        (np.array([1.0, -2.5], ">f4"), DTYPE_FLOAT32, "0000803f000020c0"),
        (np.array([1 - 2.5j], "<c8"), DTYPE_COMPLEX64, "0000803f000020c0"),
        (np.array([1 - 2.5j], ">c8"), DTYPE_COMPLEX64, "0000803f000020c0"),
    ],
)
def test_little_endian_with_the_real_part_first(array: Array, dtype: int, data: str) -> None:
    tensor = encode(array)
    assert tensor.dtype == dtype
    assert tensor.data.hex() == data


def test_c_order() -> None:
    assert encode(np.array([[1, 2], [3, 4]], np.uint8, order="F")).data == bytes([1, 2, 3, 4])


def test_not_copied() -> None:
    array = read(encode(np.arange(4, dtype=np.uint8)), np.zeros(4, np.uint8))
    assert isinstance(array.base.base, bytes)  # type: ignore[union-attr]


def test_several_types_and_free_axes_can_be_allowed() -> None:
    for scalar in (np.uint8, np.float32):
        array = np.zeros((2, 3), scalar)
        assert read(encode(array), array, dtype=(np.uint8, np.float32), shape=(None, 3)).shape == (
            2,
            3,
        )


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.complex128, np.bool_, np.float16, "S1"])
def test_other_types_have_no_place_on_the_wire(dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"expected uint8 or float32 or complex64"):
        encode(np.zeros(3, dtype))


@given(arrays)
def test_an_unset_dtype_is_rejected(array: Array) -> None:
    tensor = encode(array)
    tensor.dtype = tensor_pb2.DTYPE_UNSPECIFIED
    assert "dtype DTYPE_UNSPECIFIED" in rejected(tensor, array)


@given(arrays, st.integers(-(2**31), 2**31 - 1))
def test_an_unknown_dtype_is_rejected(array: Array, code: int) -> None:
    assume(code not in tensor_pb2.Dtype.values())
    tensor = encode(array)
    tensor.dtype = code  # type: ignore[assignment]
    assert f"dtype {code}, expected {array.dtype.name}" in rejected(tensor, array)


@given(arrays, st.sampled_from(list(WIRE)))
def test_another_dtype_is_rejected(array: Array, code: tensor_pb2.Dtype.ValueType) -> None:
    tensor = encode(array)
    assume(tensor.dtype != code)
    tensor.dtype = code
    assert f"expected {array.dtype.name}" in rejected(tensor, array)


@given(arrays, st.integers(-(2**63), 2**63 - 1), st.data())
def test_a_changed_axis_is_rejected(array: Array, size: int, data: st.DataObject) -> None:
    assume(array.ndim)
    axis = data.draw(st.integers(0, array.ndim - 1))
    assume(array.shape[axis] != size)
    tensor = encode(array)
    tensor.shape[axis] = size
    assert str(size) in rejected(tensor, array)

    free = tuple(None for _ in array.shape)
    others = array.size // array.shape[axis] if array.shape[axis] else None
    if size < 0 or others:  # else the changed shape is empty as well, hence consistent
        rejected(tensor, array, shape=free)


@given(arrays, st.integers(0, 4))
def test_an_added_axis_is_rejected(array: Array, size: int) -> None:
    tensor = encode(array)
    tensor.shape.append(size)
    assert f"{array.ndim + 1} axes" in rejected(tensor, array)


@given(arrays)
def test_a_missing_axis_is_rejected(array: Array) -> None:
    assume(array.ndim)
    tensor = encode(array)
    del tensor.shape[-1]
    assert f"{array.ndim - 1} axes" in rejected(tensor, array)


@given(arrays, st.binary(min_size=1, max_size=9))
def test_surplus_data_is_rejected(array: Array, extra: bytes) -> None:
    tensor = encode(array)
    tensor.data += extra
    assert f"needs {array.nbytes}" in rejected(tensor, array)


@given(arrays, st.data())
def test_missing_data_is_rejected(array: Array, data: st.DataObject) -> None:
    assume(array.nbytes)
    tensor = encode(array)
    tensor.data = tensor.data[: data.draw(st.integers(0, array.nbytes - 1))]
    assert f"needs {array.nbytes}" in rejected(tensor, array)


@given(arrays)
def test_a_byte_over_the_cap_is_rejected(array: Array) -> None:
    assume(array.nbytes)
    assert read(encode(array), array, max_bytes=array.nbytes).nbytes == array.nbytes
    limit = array.nbytes - 1
    assert f"the limit is {limit} bytes" in rejected(encode(array), array, max_bytes=limit)


@pytest.mark.parametrize(
    "shape", [(2**62, 2**62), (2**63 - 1, 2), (2**32, 2**32), (0, 2**62, 2**62), (2**40, 0, 2**40)]
)
def test_shapes_that_overflow_are_rejected(shape: tuple[int, ...]) -> None:
    """Two axes of 2^32 multiply to 0 in 64 bits, which matches the empty data."""
    tensor = Tensor(dtype=DTYPE_FLOAT32, shape=shape)
    like = np.zeros((), np.float32)
    assert "the limit is" in rejected(tensor, like, shape=tuple(None for _ in shape))


@pytest.mark.parametrize("scalar", [np.float32, np.complex64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_numbers_are_rejected_unless_allowed(scalar: Any, bad: float) -> None:
    array = np.zeros((2, 3), scalar)
    array[1, 2] = bad
    assert "element (1, 2) is" in rejected(encode(array), array, finite=True)
    assert not np.isfinite(read(encode(array), array, finite=False)[1, 2])


def test_a_non_finite_imaginary_part_is_rejected() -> None:
    array = np.array([0, complex(0, np.inf)], np.complex64)
    assert "element (1,) is" in rejected(encode(array), array, finite=True)
