"""Results of cells on disk, a Parquet file each, complete or not there at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from evaluation.cells import METRICS, CellResult


class CacheError(OSError):
    """The cache cannot be written or read; says where and why, and what is left."""


class Cache(Protocol):
    """Results by key."""

    def get(self, key: str) -> CellResult | None:
        """The result of a key, or None."""

    def put(self, key: str, result: CellResult) -> None:
        """Keeps a result."""


class MemoryCache:
    """Results for as long as the process lives."""

    def __init__(self) -> None:
        self._results: dict[str, CellResult] = {}

    def get(self, key: str) -> CellResult | None:
        """See :class:`Cache`."""
        return self._results.get(key)

    def put(self, key: str, result: CellResult) -> None:
        """See :class:`Cache`."""
        self._results[key] = result


class FolderCache:
    """Results in a folder, which any number of processes may share.

    A file appears under its key by one rename, after its bytes are on disk: whatever ends the
    process, a key has a whole result or none, and one key never has two.

    Arguments:
        folder: Made when it is missing.

    Raises:
        CacheError: If it cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise CacheError(f"cache {folder} cannot be written: {reason(error)}") from error

    def get(self, key: str) -> CellResult | None:
        """The result of a key; None if there is none, or its file is damaged."""
        try:
            return from_table(pq.read_table(self._path(key)))
        except (FileNotFoundError, pa.ArrowException, KeyError):
            return None
        except OSError as error:
            # Arrow reports a damaged page as OSError too: without errno.
            if error.errno is None:
                return None
            raise CacheError(f"cache {self.folder} cannot be read: {reason(error)}") from error

    def put(self, key: str, result: CellResult) -> None:
        """Keeps a result.

        Raises:
            CacheError: If it cannot be written; nothing of it is left then.
        """
        sink = pa.BufferOutputStream()
        pq.write_table(to_table(result), sink)
        path = self._path(key)
        try:
            path.parent.mkdir(exist_ok=True)
            write_whole(path, sink.getvalue().to_pybytes())
        except OSError as error:
            raise CacheError(
                f"cache {self.folder} cannot be written: {reason(error)}; "
                "what is in it stays, and the same command goes on from there"
            ) from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.parquet"


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is seen whole or not at all, even after a power cut.

    Raises:
        OSError: If it cannot be written; what was there before stays.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # the system does not say it of a write
        raise


def reason(error: OSError) -> str:
    """What the system says, without the number."""
    return error.strerror or str(error)


def to_table(result: CellResult) -> pa.Table:
    """One row for each frame; the seconds are in the schema's metadata."""
    columns = {"frame_id": pa.array(result.frame_ids, pa.uint64())}
    columns |= {name: pa.array(result.scores[name], pa.float64()) for name in METRICS}
    columns |= {"restored": pa.array(result.restored, pa.binary())}
    return pa.table(columns).replace_schema_metadata({"seconds": repr(result.seconds)})


def from_table(table: pa.Table) -> CellResult:
    """The inverse of :func:`to_table`.

    Raises:
        KeyError: If something is not there.
    """
    metadata = table.schema.metadata or {}
    return CellResult(
        frame_ids=table["frame_id"].to_pylist(),
        scores={name: table[name].to_pylist() for name in METRICS},
        restored=table["restored"].to_pylist(),
        seconds=float(metadata[b"seconds"]),
    )
