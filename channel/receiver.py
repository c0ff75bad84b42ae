"""The receiver behind the channel: one call per frame, made again when it breaks."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import grpc

from channel.settings import ChannelSettings
from commin.backoff import Backoff
from commin.frame_stream import is_cancelled
from commin.hops import ReceiveRequest, receive_stub
from commin.transport import RETRYABLE, SESSION_KEY, open_channel
from commin.v1 import describe_pb2, frame_pb2, receiver_pb2, receiver_pb2_grpc
from shared.errors import deadline_exceeded, internal, unavailable
from shared.session import Emit

log = logging.getLogger(__name__)

DESCRIBE_SECONDS = 4.0
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]


class BrokenCallError(Exception):
    """The call broke in a way that another may not."""


class Receiver:
    """All receivers that the target's name resolves to, taken in turn.

    Arguments:
        settings: Where they are.
        on_resend: Told of every call that is made again.
    """

    def __init__(self, settings: ChannelSettings, on_resend: Callable[[], None]) -> None:
        self._target = settings.receiver
        self._on_resend = on_resend
        self._connection = open_channel(
            settings.receiver,
            settings.receiver_tls,
            max_message_bytes=settings.max_message_bytes,
            keepalive_seconds=settings.keepalive_seconds,
            round_robin=True,
        )
        self._stub = receiver_pb2_grpc.ReceiverServiceStub(self._connection)
        self._receive = receive_stub(self._connection)

    async def receive(
        self, request: ReceiveRequest, deadline: float, session: str, emit: Emit
    ) -> frame_pb2.FrameEvent:
        """Has a frame received.

        Arguments:
            request: The frame.
            deadline: On the clock of ``time.monotonic``, seconds.
            session: Name of the session that it belongs to.
            emit: Given its progress events.

        Returns:
            Its result or error.

        Raises:
            FrameError: If it gets none in time.
        """
        backoff = Backoff()
        while True:
            try:
                return await self._attempt(request, deadline, session, emit)
            except BrokenCallError as error:
                log.warning(
                    "the receiver at %s broke: %s",
                    self._target,
                    error,
                    extra={"session": session, "frame": request.frame_id},
                )
            wait = backoff.next_wait()
            if time.monotonic() + wait >= deadline:
                raise deadline_exceeded(*self._too_late(request))
            await asyncio.sleep(wait)
            self._on_resend()

    async def _attempt(
        self, request: ReceiveRequest, deadline: float, session: str, emit: Emit
    ) -> frame_pb2.FrameEvent:
        call = self._receive(
            request,
            timeout=max(deadline - time.monotonic(), 0.001),
            wait_for_ready=True,
            metadata=((SESSION_KEY, session),),
        )
        try:
            async for response in call:
                event = response.event
                if event.HasField("progress"):
                    emit(event)
                elif event.error.code == UNAVAILABLE:
                    raise BrokenCallError(event.error.message)
                else:
                    last: frame_pb2.FrameEvent = event
                    return last
        except grpc.aio.AioRpcError as error:
            raise self._judge(error, request) from error
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise BrokenCallError("it cancelled the call") from None
        finally:
            call.cancel()
        raise BrokenCallError("it ended the call without a result")

    def _judge(self, error: grpc.aio.AioRpcError, request: ReceiveRequest) -> Exception:
        code, details = error.code(), error.details()
        if code in RETRYABLE:
            return BrokenCallError(f"{code.name}: {details}")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return deadline_exceeded(*self._too_late(request))
        return internal(f"the receiver at {self._target} failed: {code.name}: {details}")

    def _too_late(self, request: ReceiveRequest) -> tuple[float, str]:
        seconds = request.message.options.link.timeout_seconds
        return seconds, f"waiting for the receiver at {self._target}"

    async def describe(self) -> describe_pb2.ReceiverDescription:
        """Asks a receiver what it has loaded.

        Raises:
            FrameError: If there is no answer in time.
        """
        request = receiver_pb2.ReceiverServiceDescribeRequest()
        try:
            response = await self._stub.Describe(
                request, timeout=DESCRIBE_SECONDS, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            text = f"the receiver at {self._target}: {error.code().name}: {error.details()}"
            raise unavailable(text) from error
        return response.receiver

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()
