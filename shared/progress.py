"""The look of progress bars, in training and at the command line."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def bars(
    *columns: str | ProgressColumn, console: Console | None = None, disable: bool = False
) -> Progress:
    """A description, a bar, how far it is, and the time that has passed and is left.

    Arguments:
        columns: How far it is; a text may name fields of the task.
        console: Where to draw; None for standard output.
        disable: Draw nothing.
    """
    return Progress(
        "{task.description}",
        BarColumn(),
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=disable,
    )
