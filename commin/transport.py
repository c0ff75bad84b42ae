"""Channels to a service: TLS, keepalive, limits and balancing, the same for every hop."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import grpc

MAX_MESSAGE_BYTES = 64 * 2**20

# What a call reports when its peer went away or turned it down for now.
RETRYABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})

# Carries the session's name from hop to hop: receivers are fair between sessions.
SESSION_KEY = "commin-session"


@dataclass(frozen=True)
class TLSFiles:
    """PEM files. None at all: plaintext.

    A server needs ``cert`` and ``key``; with ``ca`` it also demands a certificate that ``ca``
    signed from its clients (mutual TLS). A client needs ``ca`` to know the server by; with
    ``cert`` and ``key`` it shows them to the server.

    Attributes:
        cert: Certificate chain.
        key: The certificate's private key.
        ca: Certificates to trust.
    """

    cert: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("TLS: cert and key go together, one of them is missing")

    def __bool__(self) -> bool:
        return any((self.cert, self.key, self.ca))

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Contents of cert, key and ca.

        Raises:
            OSError: If one cannot be read.
        """
        cert, key, ca = (
            Path(path).read_bytes() if path else None for path in (self.cert, self.key, self.ca)
        )
        return cert, key, ca


PLAINTEXT = TLSFiles()


def open_channel(
    target: str,
    tls: TLSFiles = PLAINTEXT,
    *,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    keepalive_seconds: float = 3.0,
    round_robin: bool = False,
) -> grpc.aio.Channel:
    """Opens a channel; it connects when first used and again whenever the connection is lost.

    Arguments:
        target: Such as ``"localhost:50051"`` or ``"dns:///receiver:50053"``.
        tls: What to trust and to show.
        max_message_bytes: The largest message that is accepted from the server.
        keepalive_seconds: A peer that stays silent for twice this long counts as lost.
        round_robin: Spread calls over all healthy addresses of the target's name.

    Raises:
        OSError: If a TLS file cannot be read.
    """
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),  # the server's limit is what counts
        *keepalive_options(keepalive_seconds),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 3000),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),  # replicas come and go
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if round_robin:
        options.append(("grpc.service_config", json.dumps(ROUND_ROBIN)))
    if not tls:
        return grpc.aio.insecure_channel(target, options)
    cert, key, ca = tls.read()
    credentials = grpc.ssl_channel_credentials(ca, key, cert)
    return grpc.aio.secure_channel(target, credentials, options)


ROUND_ROBIN = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},  # passes over replicas that load or drain
}


def keepalive_options(seconds: float) -> list[tuple[str, int]]:
    """Pings that notice a dead peer, such as one whose network was cut, without any traffic."""
    milliseconds = round(seconds * 1000)
    return [
        ("grpc.keepalive_time_ms", milliseconds),
        ("grpc.keepalive_timeout_ms", milliseconds),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),  # the server tolerates as much
    ]
