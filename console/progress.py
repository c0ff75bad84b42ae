"""Progress bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from rich.console import Console
from rich.progress import MofNCompleteColumn, ProgressColumn, TaskID

from shared.progress import bars

FEW = 16  # with more images than this, finished bars make room for others


class _Bars:
    """Bars on standard error, drawn within a ``with`` block."""

    def __init__(self, *columns: str | ProgressColumn) -> None:
        self._progress = bars(*columns, console=Console(stderr=True))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()


class FrameBars(_Bars):
    """A bar for each image, which follows its denoising steps, and one for all images.

    Arguments:
        names: What to call the images, by frame id.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(MofNCompleteColumn(), "{task.fields[unit]}")
        self._names = names
        self._bars: dict[int, TaskID] = {}
        self._all = self._progress.add_task("all", total=len(names), unit="images")

    def update(self, frame_id: int, step: int, steps: int) -> None:
        """A frame has come so far; may be called from any thread."""
        self._progress.update(self._bar(frame_id), completed=step, total=steps)

    def finish(self, frame_id: int, ok: bool) -> None:
        """A frame has ended."""
        bar = self._bar(frame_id)
        total = self._progress.tasks[bar].total or 1
        if ok:
            self._progress.update(bar, completed=total, total=total)
        else:
            name = self._names[frame_id]
            self._progress.update(bar, description=f"[red]{name}: failed", total=total)
        self._progress.stop_task(bar)
        if len(self._names) > FEW:
            self._progress.update(bar, visible=False)
        self._progress.advance(self._all)

    def _bar(self, frame_id: int) -> TaskID:
        if frame_id not in self._bars:
            name = self._names[frame_id]
            self._bars[frame_id] = self._progress.add_task(name, total=None, unit="steps")
        return self._bars[frame_id]


class CellBar(_Bars):
    """One bar that counts a sweep's images, in parts of one while they are restored, and cells.

    Arguments:
        images: Images in all cells.
        cached: Those of them that need no work.
        cells: All cells.
        missing: Those of them that need work.
    """

    def __init__(self, images: int, cached: int, cells: int, missing: int) -> None:
        super().__init__(
            "{task.completed:.0f}/{task.total} images",
            f"{cells} cells: {cells - missing} cached, {{task.fields[done]}} done",
        )
        self._settled = cached
        self._done = 0
        self._bar = self._progress.add_task("", total=images, completed=cached, done=0)

    def update(self, description: str, images: float) -> None:
        """So many images of the cell in work are done; may be called from any thread."""
        self._progress.update(self._bar, description=description, completed=self._settled + images)

    def finish(self, images: int) -> None:
        """A cell of so many images is done."""
        self._settled += images
        self._done += 1
        self._progress.update(self._bar, completed=self._settled, done=self._done)
