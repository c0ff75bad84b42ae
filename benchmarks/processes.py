"""Services in processes of their own, for as long as a benchmark needs them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Running:
    """A service that serves."""

    address: str
    pid: int

    def resident_bytes(self) -> int:
        """The process' resident memory."""
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running(role: str, **settings: object) -> Iterator[Running]:
    """Runs a service within the block.

    Raises:
        RuntimeError: If it does not start; the text holds what it said.
    """
    variables = {f"COMMIN_{role.upper()}_{key.upper()}": str(v) for key, v in settings.items()}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", role],
            env=os.environ | variables | {f"COMMIN_{role.upper()}_LOG_LEVEL": "WARNING"},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout
        try:
            line = process.stdout.readline()
            if not line:
                log.seek(0)
                raise RuntimeError(f"the {role} did not start: {log.read()}")
            yield Running(json.loads(line)["address"], process.pid)
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


@contextmanager
def running_link(bundle: Path, **receiver: object) -> Iterator[str]:
    """Three services on free ports; the transmitter's address.

    Arguments:
        bundle: What transmitter and receiver load.
        receiver: Further settings of the receiver.
    """
    with ExitStack() as stack:
        behind = stack.enter_context(running("receiver", bundle=bundle, **receiver))
        channel = stack.enter_context(
            running("channel", receiver=behind.address, max_in_flight=256)
        )
        front = stack.enter_context(
            running("transmitter", bundle=bundle, channel=channel.address, max_in_flight=256)
        )
        yield front.address


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
