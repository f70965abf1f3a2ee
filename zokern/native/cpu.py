"""The CPU backend: portable, AVX2 and AVX-512 kernels, chosen at run time.

`ZOKERN_ISA=portable|avx2|avx512` or `use_backend("cpu", isa=...)` asks for one. Threads are
`torch.get_num_threads()`; results do not depend on either.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import backends
from ._openmp import gomp_parallel
from ._pack import DISTRIBUTION, ROUNDING, ListKernel, pack
from ._state import state_ops

if TYPE_CHECKING:
    from .._C import TensorList

try:
    from .. import _C
except ImportError as error:
    _C = None  # type: ignore[assignment]
    _reason = f"this installation has no compiled kernels ({error}); install with a C++ compiler"
else:
    _C.cpu_use_openmp(gomp_parallel())


def unavailable_reason(device_type: str) -> str | None:
    if _C is None:
        return _reason
    return None if device_type == "cpu" else f"it runs on CPU tensors, not {device_type}"


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


def detail() -> str:
    return "" if _C is None else f"{current_isa()} of {', '.join(available_isas())}"


def _run(tensors: TensorList, device: torch.device, seeds: list[int], scales: list[float],
         decay: float, lane: int, distribution: str, rounding: str) -> None:  # fmt: skip
    isa = backends.ISAS.index(current_isa())
    _C.cpu_perturb(tensors, seeds, scales, decay, lane, DISTRIBUTION[distribution],
                   ROUNDING[rounding], isa, torch.get_num_threads())  # fmt: skip


def normal_(out: Tensor, seed: int, stream: int, lane: int, offset: int, distribution: str) -> None:
    """Fills `out`: a move from zeros with scale 1."""
    tensors = _C.TensorList([pack(None, out, stream, offset)])
    _run(tensors, out.device, [seed], [1.0], 1.0, lane, distribution, "nearest")


def _machine(_: torch.device) -> tuple[int, int]:
    return backends.ISAS.index(current_isa()), torch.get_num_threads()


from . import tt as _tt  # noqa: E402  (it reads this module)

OPS = {"perturb_": ListKernel(_run), "normal_": normal_, **_tt.OPS}
if _C is not None:
    OPS |= state_ops(_C.cpu_perturb_masked, _C.cpu_adam, _C.cpu_adamu, _machine)
