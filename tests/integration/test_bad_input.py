"""Bad frames in good company: each gets its code and field, the others come back."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from PIL import Image

from commin import tensors
from commin.v1 import (
    channel_pb2,
    channel_pb2_grpc,
    frame_pb2,
    receiver_pb2,
    receiver_pb2_grpc,
    tensor_pb2,
    transmitter_pb2,
    transmitter_pb2_grpc,
)
from tests.integration.conftest import ThreeProcesses, picture, png
from tests.tiny import SYMBOLS

INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION

Bad = tuple[transmitter_pb2.TransmitRequest, grpc.StatusCode, str, str]


def encoded(data: bytes) -> transmitter_pb2.TransmitRequest:
    return transmitter_pb2.TransmitRequest(encoded=data)


def pixels(array: np.ndarray) -> transmitter_pb2.TransmitRequest:
    return transmitter_pb2.TransmitRequest(pixels=tensors.encode(array))


def with_options(**parts: dict) -> transmitter_pb2.TransmitRequest:
    options = frame_pb2.FrameOptions(
        channel=frame_pb2.ChannelOptions(**parts.get("channel", {"snr_db": 0})),
        link=frame_pb2.LinkOptions(**parts.get("link", {})),
        restoration=frame_pb2.RestorationOptions(
            **{"restorer": "none"} | parts.get("restoration", {})
        ),
    )
    return transmitter_pb2.TransmitRequest(encoded=png(0), options=options)


def saved(image: Image.Image, kind: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def animation() -> bytes:
    frames = [Image.fromarray(picture(number)) for number in range(3)]
    return saved(frames[0], "PNG", save_all=True, append_images=frames[1:])


def bomb(width: int, height: int) -> bytes:
    """A PNG header that promises more pixels than it has."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + data


def tensor(dtype: int, shape: tuple[int, ...], data: bytes) -> transmitter_pb2.TransmitRequest:
    made = tensor_pb2.Tensor(dtype=dtype, shape=shape, data=data)
    return transmitter_pb2.TransmitRequest(pixels=made)


UINT8, FLOAT32 = tensor_pb2.DTYPE_UINT8, tensor_pb2.DTYPE_FLOAT32
SNR, TOLD, LINK = "options.channel.snr_db", "options.link.told_snr_db", "options.link."
RESTORATION = "options.restoration."

CASES: dict[str, Callable[[], Bad]] = {
    "no image": lambda: (transmitter_pb2.TransmitRequest(), INVALID, "image", "encoded"),
    "empty": lambda: (encoded(b""), INVALID, "encoded", "0 bytes"),
    "not an image": lambda: (encoded(b"hello" * 99), INVALID, "encoded", "not a readable"),
    "truncated": lambda: (encoded(png(0)[:-90]), INVALID, "encoded", "truncated"),
    "gif": lambda: (
        encoded(saved(Image.fromarray(picture(0)), "GIF")), INVALID, "encoded", "PNG, JPEG"
    ),
    "animated": lambda: (encoded(animation()), INVALID, "encoded", "3 frames"),
    "cmyk": lambda: (
        encoded(saved(Image.fromarray(picture(0)).convert("CMYK"), "JPEG")),
        INVALID, "encoded", "CMYK",
    ),
    "16-bit": lambda: (
        encoded(saved(Image.fromarray(np.zeros((9, 9), np.uint16)), "PNG")),
        INVALID, "encoded", "16 bits",
    ),
    "0x0": lambda: (encoded(bomb(0, 0)), INVALID, "encoded", ""),
    "bomb": lambda: (encoded(bomb(50_000, 50_000)), INVALID, "encoded", "limit is 100000"),
    "large": lambda: (
        encoded(png(0, 400)), INVALID, "encoded", "400x400 = 160000 pixels, the limit is 100000"
    ),
    "oversize": lambda: (
        encoded(b"\0" * 1_000_001), INVALID, "encoded", "1000001 bytes, the limit is 1000000"
    ),
    "pixels: oversize": lambda: (
        pixels(np.zeros((600, 600, 3), np.uint8)), INVALID, "pixels", "the limit is 1000000"
    ),
    "pixels: no dtype": lambda: (tensor(0, (1, 1, 3), b"abc"), INVALID, "pixels", "dtype"),
    "pixels: complex": lambda: (
        pixels(np.zeros((8, 8, 3), np.complex64)), INVALID, "pixels", "COMPLEX64"
    ),
    "pixels: grey": lambda: (pixels(np.zeros((8, 8), np.uint8)), INVALID, "pixels", "2 axes"),
    "pixels: rgba": lambda: (
        pixels(np.zeros((8, 8, 4), np.uint8)), INVALID, "pixels", "(8, 8, 4)"
    ),
    "pixels: none": lambda: (pixels(np.zeros((0, 8, 3), np.uint8)), INVALID, "pixels", "1x1"),
    "pixels: short": lambda: (tensor(UINT8, (8, 8, 3), b"12"), INVALID, "pixels", "2 bytes"),
    "pixels: negative": lambda: (tensor(UINT8, (-8, -8, 3), b""), INVALID, "pixels", "shape"),
    "pixels: huge shape": lambda: (
        tensor(FLOAT32, (2**40, 2**40, 3), b""), INVALID, "pixels", "limit"
    ),
    "pixels: nan": lambda: (
        pixels(np.full((8, 8, 3), np.nan, np.float32)), INVALID, "pixels", "nan"
    ),
    "pixels: bright": lambda: (
        pixels(np.full((8, 8, 3), 255, np.float32)), INVALID, "pixels", "[0, 1]"
    ),
    "snr nan": lambda: (
        with_options(channel={"snr_db": math.nan}), INVALID, SNR, "nan"
    ),
    "snr inf, told": lambda: (
        with_options(channel={"snr_db": math.inf}, link={"told_snr_db": 0}), INVALID, SNR, "inf"
    ),
    "snr beyond the channel": lambda: (
        with_options(channel={"snr_db": 61}, link={"told_snr_db": 0}),
        INVALID, SNR, "61 dB, this channel takes -30 to 60 dB",
    ),
    "snr beyond the bundle": lambda: (
        with_options(channel={"snr_db": 9}),
        INVALID, SNR, "9 dB, bundle tiny takes -5 to 5 dB",
    ),
    "told snr": lambda: (
        with_options(link={"told_snr_db": 5.1}), INVALID, TOLD, "5.1 dB, bundle tiny takes -5 to 5"
    ),
    "told snr nan": lambda: (with_options(link={"told_snr_db": math.nan}), INVALID, TOLD, "nan"),
    "timeout": lambda: (
        with_options(link={"timeout_seconds": 0}), INVALID, LINK + "timeout_seconds", "3600"
    ),
    "timeout nan": lambda: (
        with_options(link={"timeout_seconds": math.nan}),
        INVALID, LINK + "timeout_seconds", "3600",
    ),
    "bundle": lambda: (
        with_options(link={"bundle": "other"}), PRECONDITION, LINK + "bundle", "'tiny'"
    ),
    "codec": lambda: (
        with_options(link={"codec_digest": "00"}), PRECONDITION, LINK + "codec_digest", "'00'"
    ),
    "restorer": lambda: (
        with_options(restoration={"restorer": "magic"}),
        INVALID, RESTORATION + "restorer", "none, dps, commin",
    ),
    "steps": lambda: (
        with_options(restoration={"restorer": "commin", "steps": 5000}),
        INVALID, RESTORATION + "steps", "1000",
    ),
    "no steps": lambda: (
        with_options(restoration={"restorer": "commin", "steps": 0}),
        INVALID, RESTORATION + "steps", "0 steps",
    ),
}  # fmt: skip


def answers(
    link: ThreeProcesses, requests: list[transmitter_pb2.TransmitRequest]
) -> dict[int, list[frame_pb2.FrameEvent]]:
    """The last events of each frame, by id."""
    last: dict[int, list[frame_pb2.FrameEvent]] = {}
    with grpc.insecure_channel(link.transmitter.address) as channel:
        stub = transmitter_pb2_grpc.TransmitterServiceStub(channel)
        for response in stub.Transmit(iter(requests), timeout=60):
            if response.event.WhichOneof("event") != "progress":
                last.setdefault(response.event.frame_id, []).append(response.event)
    return last


def check(event: frame_pb2.FrameEvent, code: grpc.StatusCode, field: str, text: str) -> None:
    assert event.HasField("error"), event
    assert event.error.code == code.value[0], event.error.message
    violations = [
        violation
        for detail in event.error.details
        for request in [error_details_pb2.BadRequest()]
        if detail.Unpack(request)
        for violation in request.field_violations
    ]
    assert [violation.field for violation in violations] == [field]
    assert text in violations[0].description
    assert field in event.error.message


def test_each_bad_frame_gets_its_error_and_the_others_come_back(link: ThreeProcesses) -> None:
    bad = {number: (name, *make()) for number, (name, make) in enumerate(CASES.items())}
    requests = []
    for number, (_, request, *_) in bad.items():
        request.frame_id = number
        good = with_options()
        good.frame_id = 1000 + number
        requests += [request, good]
    last = answers(link, requests)
    assert all(len(events) == 1 for events in last.values())
    for number, (name, _, code, field, text) in bad.items():
        try:
            check(last[number][0], code, field, text)
        except AssertionError as error:
            raise AssertionError(f"case {name!r}") from error
        assert last[1000 + number][0].HasField("result")


def test_a_frame_id_in_flight_is_not_taken_twice(link: ThreeProcesses) -> None:
    first = with_options(restoration={"restorer": "commin", "steps": 100})
    first.frame_id = 7
    events = answers(link, [first, first])[7]
    check(events[0], INVALID, "frame_id", "7 is still in flight")
    assert events[1].HasField("result")


def symbols(values: np.ndarray) -> tensor_pb2.Tensor:
    return tensors.encode(values.astype(np.complex64))


GOOD = np.ones(SYMBOLS)
SYMBOL_CASES = {
    "nan": (symbols(GOOD * np.nan), "element (0,) is (nan"),
    "inf": (symbols(GOOD * np.inf), "expected finite"),
    "rank": (symbols(GOOD.reshape(2, -1)), "2 axes"),
    "dtype": (tensors.encode(GOOD.astype(np.float32)), "FLOAT32"),
    "zeros": (symbols(GOOD * 0), "average power 0"),
    "none": (symbols(GOOD[:0]), "expected at least 1"),
    "overflow": (symbols(GOOD * 1e30), "average power"),
    "length": (
        tensor_pb2.Tensor(dtype=tensor_pb2.DTYPE_COMPLEX64, shape=[SYMBOLS], data=b"123"),
        "3 bytes",
    ),
}


def propagate_options() -> frame_pb2.FrameOptions:
    return frame_pb2.FrameOptions(
        channel=frame_pb2.ChannelOptions(snr_db=0),
        link=frame_pb2.LinkOptions(told_snr_db=0, seed=1),
        restoration=frame_pb2.RestorationOptions(restorer="none"),
    )


def test_the_channel_checks_what_it_is_sent(link: ThreeProcesses) -> None:
    requests = [
        channel_pb2.PropagateRequest(frame_id=n, symbols=tensor, options=propagate_options())
        for n, (tensor, _) in enumerate(SYMBOL_CASES.values())
    ]
    others = {
        100: ("options.link.seed", lambda r: r.options.link.ClearField("seed")),
        101: ("options.link.told_snr_db", lambda r: r.options.link.ClearField("told_snr_db")),
        102: ("power", lambda r: setattr(r, "power", math.nan)),
        103: ("power", lambda r: setattr(r, "power", -1)),
        104: ("symbols", lambda r: r.symbols.CopyFrom(symbols(np.ones(SYMBOLS + 1)))),
        105: ("", lambda r: None),
    }
    for frame_id, (_, change) in others.items():
        request = channel_pb2.PropagateRequest(
            frame_id=frame_id, symbols=symbols(GOOD), options=propagate_options()
        )
        change(request)
        requests.append(request)
    with grpc.insecure_channel(link.channel.address) as channel:
        stub = channel_pb2_grpc.ChannelServiceStub(channel)
        events = {
            response.event.frame_id: response.event
            for response in stub.Propagate(iter(requests), timeout=60)
        }
    for number, (name, (_, text)) in enumerate(SYMBOL_CASES.items()):
        try:
            check(events[number], INVALID, "symbols", text)
        except AssertionError as error:
            raise AssertionError(f"case {name!r}") from error
    for frame_id, (field, _) in others.items():
        if field:
            check(events[frame_id], INVALID, field, "")
        else:
            assert events[frame_id].HasField("result")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_receiver_checks_what_it_is_sent(link: ThreeProcesses, value: float) -> None:
    request = receiver_pb2.ReceiveRequest(
        frame_id=3, symbols=symbols(GOOD * value), options=propagate_options()
    )
    with grpc.insecure_channel(link.receiver.address) as channel:
        stub = receiver_pb2_grpc.ReceiverServiceStub(channel)
        (response,) = stub.Receive(request, timeout=60)
    check(response.event, INVALID, "symbols", "expected finite")


def test_a_receiver_rejects_what_another_encoder_sent(link: ThreeProcesses) -> None:
    request = receiver_pb2.ReceiveRequest(symbols=symbols(GOOD), options=propagate_options())
    request.options.link.codec_digest = "0" * 64
    with grpc.insecure_channel(link.receiver.address) as channel:
        (response,) = receiver_pb2_grpc.ReceiverServiceStub(channel).Receive(request, timeout=60)
    check(response.event, PRECONDITION, "options.link.codec_digest", "the receiver has")


def test_a_message_over_the_limit_ends_the_stream_with_the_reason(link: ThreeProcesses) -> None:
    too_large = encoded(b"\0" * (64 * 2**20 + 1))
    with (
        grpc.insecure_channel(
            link.transmitter.address, [("grpc.max_send_message_length", -1)]
        ) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        list(transmitter_pb2_grpc.TransmitterServiceStub(channel).Transmit(iter([too_large])))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in caught.value.details()


def test_the_client_loses_only_the_image_that_is_too_large(link: ThreeProcesses) -> None:
    import commin

    images = [picture(0), b"\0" * (64 * 2**20 + 1), picture(1)]
    with commin.connect(link.transmitter.address) as client:
        good, bad, other = client.send(images, restorer="none", ordered=True)
    assert good.ok
    assert other.ok
    assert bad.code is INVALID
    assert "the limit is 67108864 bytes" in bad.message
