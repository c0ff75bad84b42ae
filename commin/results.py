"""What a client gets back for each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from google.rpc import error_details_pb2
from grpc import StatusCode
from numpy.typing import NDArray

from commin import tensors
from commin.v1 import frame_pb2, tensor_pb2

Pixels = NDArray[np.uint8]
MAX_IMAGE_BYTES = 2**30


@dataclass(frozen=True)
class Timings:
    """Seconds that each stage took for a frame; see ``StageTimings`` in frame.proto."""

    encode_seconds: float
    propagate_seconds: float
    queue_seconds: float
    decode_seconds: float
    restore_seconds: float
    first_preview_seconds: float | None
    end_to_end_seconds: float


@dataclass(frozen=True, eq=False)
class Result:
    """An image that came through.

    Attributes:
        frame_id: The frame's id.
        source: What the image was called: its path, or its position among the images.
        restored: The restored image, RGB, (H, W, 3).
        decoded: The decoded image before restoration, RGB, (H, W, 3).
        decoded_psnr_db: PSNR of ``decoded`` against the original, dB.
        restored_psnr_db: PSNR of ``restored`` against the original, dB.
        snr_db: The SNR that the channel was set to, dB.
        realised_snr_db: The SNR of this very noise draw, dB.
        told_snr_db: The SNR that transmitter and receiver were told, dB.
        timings: Where the time went.
        restorer: The restorer that ran.
        steps: The denoising steps it made.
    """

    frame_id: int
    source: str
    restored: Pixels
    decoded: Pixels
    decoded_psnr_db: float
    restored_psnr_db: float
    snr_db: float
    realised_snr_db: float
    told_snr_db: float
    timings: Timings
    restorer: str
    steps: int

    @property
    def ok(self) -> bool:
        """True; a :class:`FrameFailure` says False."""
        return True


@dataclass(frozen=True)
class FrameFailure:
    """An image that did not come through.

    Attributes:
        frame_id: The frame's id.
        source: What the image was called: its path, or its position among the images.
        code: The kind of failure.
        field: The request's field that is at fault; None if no field is.
        message: What is wrong: the value and the limit.
    """

    frame_id: int
    source: str
    code: StatusCode
    field: str | None
    message: str

    @property
    def ok(self) -> bool:
        """False; a :class:`Result` says True."""
        return False


Outcome = Result | FrameFailure


def read_outcome(event: frame_pb2.FrameEvent, source: str) -> Outcome:
    """A frame's last event as a result or a failure."""
    if event.HasField("error"):
        return _failure(event, source)
    result, timings = event.result, event.result.timings
    return Result(
        frame_id=event.frame_id,
        source=source,
        restored=read_pixels(result.restored, "restored"),
        decoded=read_pixels(result.decoded, "decoded"),
        decoded_psnr_db=result.quality.decoded_psnr_db,
        restored_psnr_db=result.quality.restored_psnr_db,
        snr_db=result.channel.snr_db,
        realised_snr_db=result.channel.realised_snr_db,
        told_snr_db=result.told_snr_db,
        timings=Timings(
            encode_seconds=timings.encode_seconds,
            propagate_seconds=timings.propagate_seconds,
            queue_seconds=timings.queue_seconds,
            decode_seconds=timings.decode_seconds,
            restore_seconds=timings.restore_seconds,
            first_preview_seconds=(
                timings.first_preview_seconds if timings.HasField("first_preview_seconds") else None
            ),
            end_to_end_seconds=timings.end_to_end_seconds,
        ),
        restorer=result.restorer,
        steps=result.steps,
    )


def read_preview(progress: frame_pb2.Progress) -> Pixels | None:
    """The present estimate, (H, W, 3), if it came along."""
    return read_pixels(progress.preview, "preview") if progress.HasField("preview") else None


def read_pixels(tensor: tensor_pb2.Tensor, field: str) -> Pixels:
    """An image from the wire, (H, W, 3), read-only."""
    return tensors.decode(
        tensor, dtype=np.uint8, shape=(None, None, 3), max_bytes=MAX_IMAGE_BYTES, field=field
    )


def _failure(event: frame_pb2.FrameEvent, source: str) -> FrameFailure:
    status = event.error
    field, message = None, status.message
    for detail in status.details:
        request = error_details_pb2.BadRequest()
        if detail.Is(request.DESCRIPTOR) and detail.Unpack(request):
            for violation in request.field_violations:
                field, message = violation.field, violation.description
    return FrameFailure(event.frame_id, source, _code(status.code), field, message)


def _code(number: Any) -> StatusCode:
    return next((code for code in StatusCode if code.value[0] == number), StatusCode.UNKNOWN)
