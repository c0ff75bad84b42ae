"""What happens around every call: turned away unless serving, counted, measured."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from shared.lifecycle import Lifecycle, Phase
from shared.telemetry import Telemetry

PACKAGE = "/commin."  # health and reflection answer in every phase

Details = grpc.HandlerCallDetails
Handler = Any  # grpc.RpcMethodHandler of whatever types
Continuation = Callable[[Details], Awaitable[Handler]]


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Turns calls away, so that they are sent again, while the service loads or drains."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def intercept_service(self, continuation: Continuation, details: Details) -> Handler:
        """Lets the call through when serving."""
        handler = await continuation(details)
        phase = self._lifecycle.phase
        if handler is None or not details.method.startswith(PACKAGE):
            return handler
        if phase is Phase.SERVING:
            return rebuild(handler, self._tracked)

        async def turn_away(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"the service is {phase.value}")

        return rebuild(handler, lambda _: turn_away)

    def _tracked(self, behaviour: Any) -> Any:
        async def tracked(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            with self._lifecycle.call():
                return await behaviour(request, context)

        return tracked


class Meter(grpc.aio.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Counts calls and the bytes of their messages, streams included."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    async def intercept_service(self, continuation: Continuation, details: Details) -> Handler:
        """Wraps the call's behaviour and its serialisers."""
        handler = await continuation(details)
        if handler is None or not details.method.startswith(PACKAGE):
            return handler
        method = details.method.rpartition("/")[2]
        return rebuild(
            handler,
            lambda behaviour: self._count(behaviour, method),
            self._sized(handler.request_deserializer, "received", len),
            self._sized(handler.response_serializer, "sent", None),
        )

    def _count(self, behaviour: Any, method: str) -> Any:
        in_flight = self._telemetry.sessions.labels(method)
        ended = self._telemetry.calls

        async def counted(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            status = "UNKNOWN"
            with in_flight.track_inprogress():
                try:
                    response = await behaviour(request, context)
                    status = "OK"
                    return response
                except asyncio.CancelledError:
                    status = "CANCELLED"
                    raise
                except grpc.aio.AbortError:
                    status = grpc_status(context)
                    raise
                finally:
                    ended.labels(method, status).inc()

        return counted

    def _sized(self, convert: Any, direction: str, size_of_input: Any) -> Any:
        """Measures at the (de)serialiser, where the bytes are at hand."""
        observe = self._telemetry.message_bytes.labels(direction).observe

        def sized(message: Any) -> Any:
            converted = convert(message)
            observe(len(message if size_of_input else converted))
            return converted

        return sized


def grpc_status(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Name of the status that a call was aborted with."""
    code: Any = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"


def rebuild(
    handler: Handler,
    wrap: Callable[[Any], Any],
    deserialise: Any = None,
    serialise: Any = None,
) -> Handler:
    """The handler with its behaviour wrapped; all our streams are written, none is yielded."""
    kinds = {
        (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    }
    make, behaviour = kinds[handler.request_streaming, handler.response_streaming]
    return make(
        wrap(behaviour),
        request_deserializer=deserialise or handler.request_deserializer,
        response_serializer=serialise or handler.response_serializer,
    )
