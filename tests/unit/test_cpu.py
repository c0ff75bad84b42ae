from __future__ import annotations

import ctypes
import subprocess
import sys
import threading

import pytest

from shared.cpu import in_passing_thread

# Tells how much larger 64 MB, used and freed, leave the process, before and after.
LEFT_BEHIND = """
import ctypes, torch
from shared.cpu import keep_freed_memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info

def left_behind():
    before = mallinfo().arena + mallinfo().hblkhd
    torch.ones(2**24)
    return mallinfo().arena + mallinfo().hblkhd - before

without = left_behind()
assert keep_freed_memory()
print(without, left_behind())
"""


async def test_work_is_done_on_a_thread_that_ends() -> None:
    thread, name = await in_passing_thread(
        lambda *, name: (threading.current_thread(), name), name=1
    )
    assert thread is not threading.current_thread()
    assert name == 1
    thread.join(20)
    assert not thread.is_alive()


async def test_it_gets_its_arguments() -> None:
    assert await in_passing_thread(int, "11", base=2) == 3


async def test_an_error_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_passing_thread(lambda: 1 // 0)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc 2.33 and later")
def test_memory_of_freed_tensors_is_kept() -> None:
    command = [sys.executable, "-c", LEFT_BEHIND]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    without, kept = map(int, said.split())
    assert without < 2**20
    assert kept >= 2**26
