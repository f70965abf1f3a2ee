"""Runs native code that may write where it must not, or never end, so that a test sees it.

The code runs in a forked process, on tensors in memory that both processes share and that lies between
pages which fault on access.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import signal
import time
from collections.abc import Callable

import torch

PAGE = mmap.PAGESIZE
CANARY = 0xA5
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Guarded:
    """Copies of tensors, each between two pages that may not be touched."""

    def __init__(self) -> None:
        self._kept: list[tuple[mmap.mmap, torch.Tensor, int, int]] = []

    def copy(self, values: torch.Tensor, head: int = 0) -> torch.Tensor:
        """`values` in guarded memory, element -`head` on a 16-byte boundary, as near as that allows to the
        upper guard; what is left to both guards holds a pattern."""
        size, item = values.numel() * values.element_size(), values.element_size()
        pages = -(-(size + 64) // PAGE)
        memory = mmap.mmap(-1, (pages + 2) * PAGE)
        whole = torch.frombuffer(memory, dtype=torch.uint8)
        base = whole.data_ptr()
        whole.fill_(CANARY)
        start = (pages + 1) * PAGE - size
        start -= (start - head * item) % 16
        tensor = whole[start : start + size].view(values.dtype)
        tensor.copy_(values)
        for guard in (base, base + (pages + 1) * PAGE):
            assert _libc.mprotect(guard, PAGE, 0) == 0, os.strerror(ctypes.get_errno())
        self._kept.append((memory, whole, start, start + size))
        return tensor

    def check(self) -> None:
        """Fails where the pattern beside a tensor is no longer there."""
        for _, whole, start, end in self._kept:
            for beside in (whole[PAGE:start], whole[end : len(whole) - PAGE]):
                assert (beside == CANARY).all(), f"{int((beside != CANARY).sum())} bytes written outside"


def in_a_process(run: Callable[[int], object], count: int, seconds: float = 60.0) -> None:
    """run(0), .. run(count - 1) in a forked process; fails with the number that crashed or did not end."""
    progress = torch.frombuffer(mmap.mmap(-1, PAGE), dtype=torch.int64)
    child = os.fork()
    if child == 0:
        faulthandler.disable()  # a crash is reported by the parent
        status = 1
        try:
            for i in range(count):
                progress[0] = i
                run(i)
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + seconds
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"number {int(progress[0])} did not end in {seconds:.0f} s")
        time.sleep(0.01)
    code = os.waitstatus_to_exitcode(done[1])
    assert code == 0, f"number {int(progress[0])} ended with " + (
        signal.Signals(-code).name if code < 0 else f"status {code}"
    )


def around_the_carry() -> list[tuple[int, int]]:
    """(offset, elements) of tensors that end, begin or go on within a few hundred units of 2^35 k elements,
    where the low word of the block counter (offset >> 3) begins again from 0."""
    ends = [8 * units for units in (0, 1, 127, 255, 256, -1, -256)] + [3, 2037]
    cases = []
    for carry in (2**35, 2 * 2**35, 2**39):
        for before_end in ends:
            cases += [(carry - before_end - n, n) for n in (8, 800, 2041, 3 * 2048 + 8)]
    return [*cases, (2**35 - 1200, 800)]
