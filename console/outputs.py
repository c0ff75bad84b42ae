"""Which images a command takes, and where it puts what it makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.errors import UserError

if TYPE_CHECKING:
    from commin import Result

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


def collect_images(paths: Sequence[Path]) -> list[Path]:
    """The images that arguments mean: files as they are, folders by their image files.

    Raises:
        UserError: If something does not exist, or a folder has no image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(f"folder {path} has no PNG, JPEG or WebP files")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path} does not exist")
    return found


class Outputs:
    """Names files after the images that they come from; images of one name get numbers.

    Attributes:
        folder: Where the files go.
        names: A unique name for each image, by its position.
    """

    def __init__(self, folder: Path, images: Sequence[Path]) -> None:
        self.folder = folder
        self.names: list[str] = []
        taken: set[str] = set()
        for image in images:
            name, number = image.stem, 1
            while name in taken:
                number += 1
                name = f"{image.stem}-{number}"
            taken.add(name)
            self.names.append(name)

    def save(self, result: Result) -> None:
        """Writes NAME.decoded.png and NAME.restored.png.

        Raises:
            OSError: If a file cannot be written.
        """
        name = self.names[result.frame_id]
        self._write(f"{name}.decoded.png", result.decoded)
        self._write(f"{name}.restored.png", result.restored)

    def save_preview(self, frame_id: int, step: int, preview: Any) -> None:
        """Writes previews/NAME-STEP.png."""
        self._write(f"previews/{self.names[frame_id]}-{step:04d}.png", preview)

    def _write(self, name: str, pixels: Any) -> None:
        from PIL import Image

        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
