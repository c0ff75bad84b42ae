"""A labelled grid of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

MARGIN = 16
GAP = 6
GROUP_GAP = 22
TEXT = (32, 32, 32)
FAINT = (110, 110, 110)
BACKGROUND = (255, 255, 255)


@dataclass(frozen=True)
class Cell:
    """An image, RGB uint8 (H, W, 3), with a line of text below it."""

    pixels: NDArray[np.uint8]
    caption: str = ""


@dataclass(frozen=True)
class Group:
    """Columns that belong together, under a title and a heading each."""

    title: str
    headings: Sequence[str]


def compose(
    groups: Sequence[Group], rows: Sequence[Sequence[Cell]], size: int = 192
) -> Image.Image:
    """Draws rows of cells under the groups' columns.

    Arguments:
        groups: The columns, from the left.
        rows: As many cells each as there are columns.
        size: Height and width to draw an image at, pixels.

    Raises:
        ValueError: If a row has another number of cells.
    """
    columns = sum(len(group.headings) for group in groups)
    if wrong := [len(row) for row in rows if len(row) != columns]:
        raise ValueError(f"a row of {wrong[0]} cells under {columns} columns")
    sheet = _Sheet(groups, len(rows), size)
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            sheet.put(row, column, cell)
    return sheet.image


class _Sheet:
    """Where everything goes."""

    def __init__(self, groups: Sequence[Group], rows: int, size: int) -> None:
        self._size = size
        self._font = ImageFont.load_default(max(11, size // 13))
        self._title = ImageFont.load_default(max(13, size // 10))
        self._line = max(16, size // 9)
        self._lefts = _lefts(groups, size)
        self._top = MARGIN + self._line + self._line
        width = self._lefts[-1] + size + MARGIN
        height = self._top + rows * (size + self._line + GAP) + MARGIN
        self.image = Image.new("RGB", (width, height), BACKGROUND)
        self._draw = ImageDraw.Draw(self.image)
        self._head(groups)

    def _head(self, groups: Sequence[Group]) -> None:
        column = 0
        for group in groups:
            last = column + len(group.headings) - 1
            middle = (self._lefts[column] + self._lefts[last] + self._size) / 2
            self._write(middle, MARGIN, group.title, self._title, TEXT)
            for heading in group.headings:
                middle = self._lefts[column] + self._size / 2
                self._write(middle, MARGIN + self._line, heading, self._font, TEXT)
                column += 1

    def put(self, row: int, column: int, cell: Cell) -> None:
        """Draws one image, enlarged in whole pixels where it is small."""
        left = self._lefts[column]
        top = self._top + row * (self._size + self._line + GAP)
        image = Image.fromarray(cell.pixels)
        enlarge = Image.Resampling.BICUBIC if image.width < self._size else Image.Resampling.LANCZOS
        self.image.paste(image.resize((self._size, self._size), enlarge), (left, top))
        middle = left + self._size / 2
        self._write(middle, top + self._size + 2, cell.caption, self._font, FAINT)

    def _write(self, middle: float, top: float, text: str, font: Any, colour: Any) -> None:
        self._draw.text((middle, top), text, fill=colour, font=font, anchor="ma")


def _lefts(groups: Sequence[Group], size: int) -> list[int]:
    """Left edge of each column."""
    lefts: list[int] = []
    x = MARGIN
    for group in groups:
        for _ in group.headings:
            lefts.append(x)
            x += size + GAP
        x += GROUP_GAP - GAP
    return lefts
