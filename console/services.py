"""The three services as processes of this machine."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from console.errors import UserError

START_SECONDS = 300.0
STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Addresses:
    """Where the services of a link listen, host:port each."""

    transmitter: str
    channel: str
    receiver: str


@contextmanager
def running_link(bundle: Path, logs: Path) -> Iterator[Addresses]:
    """Starts receiver, channel and transmitter on free loopback ports; stops them at the end.

    Arguments:
        bundle: What the transmitter and the receiver load.
        logs: Folder for a log file of each.

    Yields:
        Where they listen.

    Raises:
        UserError: If one does not start; says why and where its log is.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:

        def start(role: str, *options: str) -> str:
            service = _Service(role, options, logs / f"{role}.log")
            stack.callback(service.stop)
            return service.wait_until_serving()

        receiver = start("receiver", "--bundle", str(bundle))
        channel = start("channel", "--receiver", receiver)
        transmitter = start("transmitter", "--bundle", str(bundle), "--channel", channel)
        yield Addresses(transmitter, channel, receiver)


class _Service:
    """One service's process; it says on standard output when it serves."""

    def __init__(self, role: str, options: tuple[str, ...], log: Path) -> None:
        self._role = role
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "console", "serve", role, "--port", "0", *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for us, who then stop it in order
            )

    def wait_until_serving(self) -> str:
        """Waits until the service is healthy; returns its address."""
        assert self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            raise UserError(f"the {self._role} did not start: {self._last_words()}")
        return str(json.loads(line)["address"])

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{last} (log: {self._log})"

    def stop(self) -> None:
        """Ends the process, by force if it takes too long."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
