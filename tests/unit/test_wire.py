"""Messages with their elements set apart: the same bytes to protobuf, whoever writes or reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from commin import tensors, wire
from commin.hops import PROPAGATE
from commin.v1 import channel_pb2
from commin.wire import Parcel

Request = channel_pb2.PropagateRequest
ids = st.integers(0, 2**64 - 1)
lengths = st.sampled_from([0, 1, 2, 15, 16, 127, 2**11])


@pytest.fixture(autouse=True)
def _take_all_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small messages too."""
    monkeypatch.setattr(wire, "FEW_BYTES", -1)


def symbols(k: int) -> NDArray[np.complex64]:
    return np.random.default_rng(k).standard_normal(2 * k, np.float32).view(np.complex64)


def whole(frame_id: int, k: int) -> Request:
    """As the generated code has it."""
    request = Request(frame_id=frame_id, power=2.5, symbols=tensors.encode(symbols(k)))
    request.options.link.bundle = "faces"
    request.options.link.seed = frame_id
    return request


def joined(parcel: Parcel[Request]) -> Request:
    """The parcel as one message."""
    message = Request()
    message.CopyFrom(parcel.message)
    if len(parcel.data):
        message.symbols.data = bytes(parcel.data)
    return message


@given(ids, lengths)
def test_what_is_written_here_protobuf_reads(frame_id: int, k: int) -> None:
    wanted = whole(frame_id, k)
    message = Request()
    message.CopyFrom(wanted)
    message.symbols.ClearField("data")
    raw = PROPAGATE.write(Parcel(message, symbols(k)))
    assert Request.FromString(raw) == wanted
    assert joined(PROPAGATE.read(raw)) == wanted


@given(ids, lengths)
def test_what_protobuf_writes_is_read_here_without_a_copy(frame_id: int, k: int) -> None:
    wanted = whole(frame_id, k)
    raw = wanted.SerializeToString()
    parcel = PROPAGATE.read(raw)
    assert not parcel.message.symbols.data
    assert joined(parcel) == wanted
    if k:
        assert np.shares_memory(np.frombuffer(parcel.data, np.uint8), np.frombuffer(raw, np.uint8))


def test_few_bytes_are_left_to_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FEW_BYTES", 2**20)
    wanted = whole(3, 16)
    assert joined(PROPAGATE.read(wanted.SerializeToString())) == wanted


@given(st.lists(st.sampled_from([0, 1, 2, 16]), max_size=3), st.binary(max_size=8))
def test_parts_are_merged_as_protobuf_merges_them(ks: list[int], more: bytes) -> None:
    """Messages after each other are one message; of data given twice, the last counts."""
    raw = b"".join(whole(7, k).SerializeToString() for k in ks) + more
    check_as_protobuf_does(raw)


@given(st.data())
def test_damaged_messages_are_read_as_protobuf_reads_them(data: Any) -> None:
    raw = bytearray(whole(300, data.draw(lengths)).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, min(len(raw), 64) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    check_as_protobuf_does(bytes(raw))
    check_as_protobuf_does(bytes(raw[:cut]))


@given(st.binary(max_size=64))
def test_noise_is_read_as_protobuf_reads_it(raw: bytes) -> None:
    check_as_protobuf_does(raw)


def check_as_protobuf_does(raw: bytes) -> None:
    """Reads it both ways: the same message, or an error both times."""
    try:
        wanted = Request.FromString(raw)
    except DecodeError:
        with pytest.raises(DecodeError):
            PROPAGATE.read(raw)
        return
    read = joined(PROPAGATE.read(raw))
    read.symbols.SetInParent()
    wanted.symbols.SetInParent()
    assert read.SerializeToString(deterministic=True) == wanted.SerializeToString(
        deterministic=True
    )


@given(ids)
def test_the_size_that_is_told_is_nearly_that(frame_id: int) -> None:
    message = whole(frame_id, 2**11)
    parcel = PROPAGATE.read(message.SerializeToString())
    assert abs(parcel.ByteSize() - len(PROPAGATE.write(parcel))) < 32
