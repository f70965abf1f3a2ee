"""Finds the OpenMP runtime that PyTorch brought, so that our kernels run on its threads."""

from __future__ import annotations

import ctypes
import re

_RUNTIME = re.compile(r"/lib(gomp|iomp5|omp)[^/]*\.so[^/]*$")


def gomp_parallel() -> int:
    """Address of `GOMP_parallel` of the OpenMP runtime loaded in this process, or 0.

    libgomp, libiomp5 and LLVM's libomp all export it. Only a library that is loaded already is
    looked at; where /proc is not to be had, there is none.
    """
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split(maxsplit=5)[-1].strip() for line in maps if "omp" in line}
    except OSError:
        return 0
    for path in sorted(paths):
        if _RUNTIME.search(path):
            try:
                function = ctypes.CDLL(path).GOMP_parallel
            except (OSError, AttributeError):
                continue
            return ctypes.cast(function, ctypes.c_void_p).value or 0
    return 0
