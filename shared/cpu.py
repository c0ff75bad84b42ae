"""What a process whose torch computes on a CPU, on a thread of its own, does to compute faster."""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")

# mallopt's parameters and their values here, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES, OLDER_GLIBC_BYTES = 2**30, 2**25


async def in_passing_thread(
    work: Callable[Given, Result], *arguments: Given.args, **options: Given.kwargs
) -> Result:
    """Like ``asyncio.to_thread``, on a thread that is gone afterwards.

    A thread on which torch has computed keeps helpers for as long as it lives. They count against
    the cores: with two such threads OpenMP takes the machine for overcommitted, and its threads
    sleep at every barrier instead of waiting for each other. A step took a fifth longer.
    """
    passing, loop = ThreadPoolExecutor(1), asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(passing, lambda: work(*arguments, **options))
    finally:
        passing.shutdown(wait=False)


def keep_freed_memory() -> bool:
    """Has malloc keep what tensors free for the next ones; false where it is not glibc's.

    Otherwise it returns most of it to the system and gets it back, zeroed page by page, in every
    step: 5% of the time. The process stays as large as it was at its largest.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # no such thing on macOS, musl, Windows
        return False
    mapped = any(mallopt(M_MMAP_THRESHOLD, size) for size in (KEPT_BYTES, OLDER_GLIBC_BYTES))
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)) and mapped
