"""Memory for large outputs: on huge pages, and kept for the next output when the last one is freed.

The C library maps every block of 32 MiB and more anew (and smaller ones until its heap has grown to hold
them): the system makes, clears and frees its pages in every call, which takes longer than the kernel that
writes them. At most one block is kept; it is freed when a block of another size is given back.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

LARGE = 8 << 20
"""Bytes from which this pays: smaller blocks come as fast from the C library's heap."""

_kept: deque[mmap.mmap] = deque(maxlen=1)  # pop and append are atomic: threads need no lock


def _memory(nbytes: int) -> mmap.mmap:
    with contextlib.suppress(IndexError):
        kept = _kept.pop()
        if nbytes <= len(kept) <= 2 * nbytes:
            return kept
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a system without huge pages gives ordinary ones
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """`torch.empty(shape, dtype=dtype)` on the CPU. Its storage cannot be resized where it is large."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < LARGE or sys.platform != "linux":
        return torch.empty(shape, dtype=dtype)
    memory = _memory(nbytes)
    owner = np.frombuffer(memory, np.uint8, nbytes)
    weakref.finalize(owner, _kept.append, memory).atexit = False
    y = torch.empty(0, dtype=dtype)  # not a view, which autograd would treat differently
    return y.set_(torch.from_numpy(owner).untyped_storage(), 0, shape)  # type: ignore[call-overload, no-any-return]
