"""How commands end when something is wrong that the user can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Ends the program with exit code 1 and this text on one line, without a traceback."""


@contextmanager
def reported(*kinds: type[Exception]) -> Iterator[None]:
    """Turns exceptions of these kinds into :class:`UserError`."""
    try:
        yield
    except kinds as error:
        raise UserError(str(error) or type(error).__name__) from error
