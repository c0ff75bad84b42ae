"""Connecting to a running link as commands do it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from console.errors import UserError, reported

if TYPE_CHECKING:
    from commin import Link, TLSFiles


@contextmanager
def opened(
    target: str, ca: Path | None = None, cert: Path | None = None, key: Path | None = None
) -> Iterator[Link]:
    """A connection to the transmitter at ``target``.

    Raises:
        UserError: If it cannot be reached, or stops answering.
    """
    import commin

    with reported(commin.LinkError):
        try:
            link = commin.connect(target, tls=tls_files(ca, cert, key))
        except OSError as error:
            if isinstance(error, commin.LinkError):
                raise
            raise UserError(f"TLS file cannot be read: {error}") from error
        with link:
            yield link


def tls_files(ca: Path | None, cert: Path | None, key: Path | None) -> TLSFiles:
    """The TLS options of a command.

    Raises:
        UserError: If they do not go together.
    """
    from commin import TLSFiles

    if (cert or key) and not ca:
        raise UserError("--tls-cert and --tls-key need --tls-ca")
    with reported(ValueError):
        return TLSFiles(cert=cert, key=key, ca=ca)
