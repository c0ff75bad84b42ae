"""Why a frame failed, in the form in which its client is told."""

from __future__ import annotations

from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from commin.v1 import frame_pb2

DOMAIN = "commin"


class FrameError(Exception):
    """A frame that cannot be served; the stream that it came by lives on.

    Attributes:
        code: The kind of failure.
        field: Path of the request's field that is at fault; None if no field is.
        description: What is wrong: the value and the limit.
    """

    def __init__(self, code: StatusCode, field: str | None, description: str) -> None:
        super().__init__(f"{field}: {description}" if field else description)
        self.code = code
        self.field = field
        self.description = description

    def to_status(self) -> status_pb2.Status:
        """The status to send, with the field as ``BadRequest`` and the code as ``ErrorInfo``."""
        details: list[error_details_pb2.BadRequest | error_details_pb2.ErrorInfo] = [
            error_details_pb2.ErrorInfo(reason=self.code.name, domain=DOMAIN)
        ]
        if self.field:
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=self.field, description=self.description
            )
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        packed = [any_pb2.Any() for _ in details]
        for target, detail in zip(packed, details, strict=True):
            target.Pack(detail)
        return status_pb2.Status(code=self.code.value[0], message=str(self), details=packed)

    def to_event(self, frame_id: int) -> frame_pb2.FrameEvent:
        """The frame's last event."""
        return frame_pb2.FrameEvent(frame_id=frame_id, error=self.to_status())


def invalid(field: str, description: str) -> FrameError:
    """The request is wrong, whatever state the services are in."""
    return FrameError(StatusCode.INVALID_ARGUMENT, field, description)


def precondition(field: str, description: str) -> FrameError:
    """The request could be right, but not for what is loaded here."""
    return FrameError(StatusCode.FAILED_PRECONDITION, field, description)


def deadline_exceeded(seconds: float, where: str) -> FrameError:
    """The frame's time is up."""
    return FrameError(
        StatusCode.DEADLINE_EXCEEDED,
        "options.link.timeout_seconds",
        f"no result within {seconds:g} s, {where}",
    )


def unavailable(description: str) -> FrameError:
    """A service cannot take or finish the frame now; sent again, it may succeed."""
    return FrameError(StatusCode.UNAVAILABLE, None, description)


def internal(description: str) -> FrameError:
    """A fault of ours."""
    return FrameError(StatusCode.INTERNAL, None, description)
