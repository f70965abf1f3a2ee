"""The instruction sets of the CPU kernels: which this machine runs, and which the next call uses."""

from __future__ import annotations

import functools

import torch

from .. import backends
from ._openmp import gomp_parallel

try:
    from .. import _C
except ImportError as error:
    _C = None  # type: ignore[assignment]
    REASON: str | None = f"this installation has no compiled kernels ({error}); install with a C++ compiler"
else:
    REASON = None
    _C.cpu_use_openmp(gomp_parallel())


def available_isas() -> list[str]:
    """Instruction sets this machine runs, slowest first."""
    if _C is None:
        return []
    return [name for i, name in enumerate(backends.ISAS) if _C.cpu_has_isa(i)]


def check_isa(isa: str) -> None:
    if isa not in available_isas():
        raise backends.BackendUnavailable(f"this machine does not run instruction set {isa!r}")


def current_isa() -> str:
    """The instruction set the next call uses."""
    return _isa(backends.requested()[1])


@functools.cache
def _isa(asked: str | None) -> str:
    if asked is None:
        return backends.ISAS[_C.cpu_best_isa()]
    check_isa(asked)
    return asked


def isa_code() -> int:
    """`current_isa` as the C interface takes it."""
    return backends.ISAS.index(current_isa())


def machine(_: torch.device) -> tuple[int, int]:
    """The last arguments of the CPU kernels: instruction set and threads."""
    return isa_code(), torch.get_num_threads()
