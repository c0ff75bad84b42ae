"""The containers' health check, against a real service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def channel() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A channel's process and its address; a receiver is not needed for it to be healthy."""
    process = subprocess.Popen(
        [sys.executable, "-m", "channel"],
        cwd=ROOT,
        env=os.environ | {"COMMIN_CHANNEL_GRACE_SECONDS": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    yield process, json.loads(process.stdout.readline())["address"]
    process.kill()
    process.wait(30)
    process.stdout.close()


def check(*arguments: str) -> tuple[int, str]:
    """Exit code and output of the health check."""
    command = [sys.executable, "-m", "shared.healthcheck", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.strip()


def test_a_serving_service_is_healthy(channel: tuple[subprocess.Popen[str], str]) -> None:
    assert check(channel[1], "--seconds", "20") == (0, "SERVING")


def test_a_stopped_service_is_not(channel: tuple[subprocess.Popen[str], str]) -> None:
    process, address = channel
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    code, text = check(address)
    assert code == 1
    assert text.startswith("UNAVAILABLE")


def test_an_unreadable_certificate_is_named(tmp_path: Path) -> None:
    code, text = check("localhost:1", "--ca", str(tmp_path / "none.pem"))
    assert code == 1
    assert "none.pem" in text
