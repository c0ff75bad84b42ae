"""Pictures, and services in processes of their own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny import SIZE

START_SECONDS = 90.0


def picture(number: int, size: int = SIZE) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A smooth image that differs from every other number's, (size, size, 3)."""
    draws = np.random.default_rng(number)
    coarse = draws.integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def png(number: int, size: int = SIZE) -> bytes:
    """The same as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture(number, size)).save(file, "PNG")
    return file.getvalue()


def metric(port: int, name: str) -> float:
    """A service's metric, summed over its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        text = page.read().decode()
    values = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, values))


@dataclass
class Process:
    """A service in a process of its own.

    Attributes:
        role: transmitter, channel or receiver.
        process: The process.
        address: Where it serves.
        log: The lines of its standard error so far.
    """

    role: str
    process: subprocess.Popen[str]
    address: str = ""
    log: list[str] = field(default_factory=list)

    def follow(self) -> None:
        """Collects standard error, so that the pipe never fills."""
        assert self.process.stderr
        with self.process.stderr as lines:
            self.log += iter(lines.readline, "")

    def wait_until_serving(self) -> Process:
        """Waits for the line that tells the address."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(10)
            pytest.fail(f"the {self.role} did not start:\n{''.join(self.log)}")
        self.address = json.loads(line)["address"]
        return self

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        """Sends a signal and waits; the exit code."""
        self.process.send_signal(with_signal)
        return self.process.wait(30)


Start = Callable[..., Process]


def start_process(role: str, **settings: object) -> Process:
    """Starts a service; its settings go by environment variables."""
    variables = {
        f"COMMIN_{role.upper()}_{name.upper()}": str(value) for name, value in settings.items()
    }
    environment = os.environ | variables | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", role],
        env=environment,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    service = Process(role, process)
    threading.Thread(target=service.follow, daemon=True).start()
    return service


@contextlib.contextmanager
def starting() -> Iterator[Start]:
    """Starts services that end with the block."""
    started: list[Process] = []

    def start_one(role: str, **settings: object) -> Process:
        started.append(start_process(role, **settings))
        return started[-1]

    try:
        yield start_one
    finally:
        for service in started:
            service.process.kill()
            service.process.wait(30)
            assert service.process.stdout
            service.process.stdout.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts services that end with the test."""
    with starting() as start:
        yield start


@dataclass(frozen=True)
class ThreeProcesses:
    """A whole link, and the port of its receiver's metrics."""

    transmitter: Process
    channel: Process
    receiver: Process
    receiver_metrics: int


def start_link(
    start: Start,
    bundle: Path,
    everywhere: Mapping[str, object] = {},
    **transmitter: object,
) -> ThreeProcesses:
    """Starts a link front to back, on free ports."""
    ports = free_ports(3)
    channel_at, receiver_at = (f"127.0.0.1:{port}" for port in ports[:2])
    front = start("transmitter", bundle=bundle, channel=channel_at, **transmitter, **everywhere)
    channel = start("channel", port=ports[0], receiver=receiver_at, **everywhere)
    receiver = start("receiver", bundle=bundle, port=ports[1], metrics_port=ports[2], **everywhere)
    for service in (front, channel, receiver):
        service.wait_until_serving()
    return ThreeProcesses(front, channel, receiver, ports[2])


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="session")
def link(bundle: Path) -> Iterator[ThreeProcesses]:
    """A link of three processes that tests share; they leave it as they found it."""
    with starting() as start:
        link = start_link(
            start,
            bundle,
            everywhere={"reflection": True},
            max_pixels=100_000,
            max_image_bytes=1_000_000,
        )
        yield link
        services = (link.transmitter, link.channel, link.receiver)
        for service in services:
            service.process.terminate()
        for service in services:
            assert service.process.wait(30) == 0, service.log[-3:]
