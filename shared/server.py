"""The life of a service's process: bind, load, serve, drain."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from http.server import HTTPServer
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from commin.transport import TLSFiles, keepalive_options
from shared.bundle import BundleError
from shared.interceptors import Gate, Meter
from shared.lifecycle import Lifecycle
from shared.logs import set_up_logs
from shared.settings import ServiceSettings
from shared.telemetry import Telemetry

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0  # for handing over what is finished when the grace period is over
LAST_STATUS_SECONDS = 0.3  # health watchers would stay for as long as they are let
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class StartError(RuntimeError):
    """A service that cannot start; the text says why in one line."""


class Service(Protocol):
    """What a server runs."""

    name: str
    lifecycle: Lifecycle

    @property
    def telemetry(self) -> Telemetry:
        """What it measures."""

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the service's handlers to the server."""

    async def load(self) -> None:
        """Gets ready to serve; calls are turned away until it returns."""

    async def close(self) -> None:
        """Lets go of everything once the last call has ended."""


class Server:
    """One service on one port, with health, reflection and metrics.

    Arguments:
        settings: Where and how to listen.
        service: What to serve; its ``name`` is the full name of its gRPC service.
    """

    def __init__(self, settings: ServiceSettings, service: Service) -> None:
        self._settings = settings
        self._service = service
        self._health = health.aio.HealthServicer()
        self._metrics: HTTPServer | None = None
        self.address = ""

    async def start(self) -> None:
        """Listens and answers health checks at once, serves once loaded.

        Raises:
            StartError: If a port is taken, a TLS file unusable, or loading fails.
        """
        await self._set_health(NOT_SERVING)
        self._server = self._make_server()
        self.address = self._bind()
        await self._server.start()
        try:
            self._metrics = self._service.telemetry.expose(
                self._settings.host, self._settings.metrics_port
            )
            await self._service.load()
        except (BundleError, OSError, ValueError, RuntimeError) as error:
            await self._server.stop(None)
            raise StartError(str(error)) from error
        self._service.lifecycle.serve()
        await self._set_health(SERVING)

    async def stop(self) -> None:
        """Drains: nothing new, frames in flight get the grace period, then the server stops."""
        await self._set_health(NOT_SERVING)
        await self._service.lifecycle.drain(self._settings.grace_seconds)
        await self._service.lifecycle.ended(FLUSH_SECONDS)
        await self._server.stop(LAST_STATUS_SECONDS)
        await self._service.close()
        if self._metrics:
            self._metrics.shutdown()
            self._metrics.server_close()

    def _make_server(self) -> grpc.aio.Server:
        settings, service = self._settings, self._service
        options = [
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            *keepalive_options(settings.keepalive_seconds),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
            ("grpc.so_reuseport", 0),  # a port that is taken is an error
        ]
        if age := settings.max_connection_age_seconds:
            # No limit on the grace: calls on an old connection are never cut, new ones leave it.
            options.append(("grpc.max_connection_age_ms", round(age * 1000)))
        server = grpc.aio.server(
            interceptors=[Meter(service.telemetry), Gate(service.lifecycle)], options=options
        )
        service.register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if settings.reflection:
            names = (service.name, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)
        return server

    def _bind(self) -> str:
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        address = f"{host}:{self._settings.port}"
        try:
            check_free(self._settings.host, self._settings.port)
            if self._settings.tls:
                credentials = server_credentials(self._settings.tls)
                port = self._server.add_secure_port(address, credentials)
            else:
                port = self._server.add_insecure_port(address)
        except (OSError, RuntimeError, ValueError) as error:
            raise StartError(f"cannot listen on {address}: {error}") from error
        return f"{host}:{port}"

    async def _set_health(self, status: int) -> None:
        for name in ("", self._service.name):
            await self._health.set(name, status)


def check_free(host: str, port: int) -> None:
    """Makes sure that nothing listens there; gRPC would not say why it cannot.

    Raises:
        OSError: If something does.
    """
    if port:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()


def server_credentials(tls: TLSFiles) -> grpc.ServerCredentials:
    """Credentials that also demand the client's certificate when there is a ``ca``.

    Raises:
        OSError: If a file cannot be read.
    """
    cert, key, ca = tls.read()
    assert cert is not None  # the settings saw to it
    assert key is not None
    return grpc.ssl_server_credentials(
        [(key, cert)], root_certificates=ca, require_client_auth=ca is not None
    )


async def serve(settings: ServiceSettings, service: Service) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Prints one JSON line on standard output when serving:
    ``{"event": "serving", "service": ..., "address": "host:port"}``.

    Raises:
        StartError: See :meth:`Server.start`.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = Server(settings, service)
    if not await _unless(stopping, server.start()):
        return
    gc.collect()
    gc.freeze()  # what is loaded stays: no collection while serving need look through it
    line = {"event": "serving", "service": service.name, "address": server.address}
    print(json.dumps(line), flush=True)
    log.info("serving on %s", server.address)
    await stopping.wait()
    log.info("draining for up to %g s", settings.grace_seconds)
    await server.stop()
    log.info("stopped")


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Runs the work; false if the event came first."""
    running = asyncio.create_task(work)
    event = asyncio.create_task(stopping.wait())
    await asyncio.wait([running, event], return_when=asyncio.FIRST_COMPLETED)
    event.cancel()
    if not running.done():
        running.cancel()
        return False
    running.result()
    return True


def run(settings: ServiceSettings, make_service: Callable[[], Service], role: str) -> None:
    """Runs a service in this process until it is told to stop.

    Raises:
        SystemExit: If it cannot start; one line on standard error says why.
    """
    set_up_logs(role, settings.log_level)

    async def main() -> None:
        await serve(settings, make_service())

    try:
        asyncio.run(main())
    except (StartError, OSError) as error:
        reason = " ".join(str(error).split())
        sys.exit(f"commin {role}: {reason}")
