"""What every service can be set to, from arguments or the environment."""

from __future__ import annotations

import sys
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from commin.transport import MAX_MESSAGE_BYTES, PLAINTEXT, TLSFiles

Settings = TypeVar("Settings", bound=BaseSettings)


def environment(prefix: str) -> SettingsConfigDict:
    """Reads variables with ``prefix``; a nested field's name follows two underscores."""
    return SettingsConfigDict(
        env_prefix=prefix, env_nested_delimiter="__", extra="forbid", frozen=True
    )


class ServiceSettings(BaseSettings):
    """Common to the three services."""

    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(0, ge=0, le=65535, description="Port to listen on; 0 picks a free one")
    tls: TLSFiles = Field(PLAINTEXT, description="What clients are served with; see TLSFiles")
    max_message_bytes: int = Field(
        MAX_MESSAGE_BYTES,
        ge=2**16,
        lt=2**31,
        description="Largest message; a larger one ends its stream",
    )
    grace_seconds: float = Field(
        8.0, ge=0, le=3600, description="How long frames in flight may go on after SIGTERM"
    )
    keepalive_seconds: float = Field(
        3.0, ge=1, le=3600, description="A peer silent for twice this long counts as lost"
    )
    max_connection_age_seconds: float | None = Field(
        None,
        gt=0,
        description="Connections are renewed after this long, so that clients find new replicas",
    )
    reflection: bool = Field(False, description="Let clients such as grpcurl list the services")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Port of /metrics for Prometheus; 0 or unset: none"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @model_validator(mode="after")
    def _tls_is_whole(self) -> ServiceSettings:
        if self.tls.ca and not self.tls.cert:
            raise ValueError("tls: a server with a ca needs its own cert and key too")
        return self


class SessionSettings(ServiceSettings):
    """Common to the services that hold sessions: transmitter and channel."""

    max_sessions: int = Field(64, ge=1, le=10_000, description="Most streams at the same time")
    max_in_flight: int = Field(
        32, ge=1, le=4096, description="Most frames in flight per stream; further ones wait unread"
    )
    frame_timeout_seconds: float = Field(
        120.0, gt=0, le=86_400, description="What a frame may take when it does not say"
    )


def load_settings(kind: type[Settings], **values: Any) -> Settings:
    """Makes settings of ``values`` and the environment, or ends the program with one line.

    Raises:
        SystemExit: If a setting is unknown or out of range; the text names it.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        prefix = kind.model_config.get("env_prefix", "")
        faults = "; ".join(
            f"{'__'.join(map(str, fault['loc'])) or 'settings'} "
            f"(environment: {prefix}{'__'.join(map(str, fault['loc'])).upper()}): "
            f"{fault['msg']}, got {fault['input']!r}"
            for fault in error.errors(include_url=False)
        )
        sys.exit(f"bad setting: {faults}")
