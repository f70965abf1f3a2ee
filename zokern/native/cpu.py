"""The CPU backend: portable, AVX2 and AVX-512 kernels, chosen at run time.

`ZOKERN_ISA=portable|avx2|avx512` or `use_backend("cpu", isa=...)` asks for one. Threads are
`torch.get_num_threads()`; results do not depend on either.
"""

from __future__ import annotations

from collections.abc import Callable

from ._isa import _C, REASON, available_isas, check_isa, current_isa, machine
from ._lists import list_ops
from .states import state_ops
from .tt_cpu import tt_ops

__all__ = ["OPS", "available_isas", "check_isa", "current_isa", "detail", "unavailable_reason"]


def unavailable_reason(device_type: str) -> str | None:
    if REASON is not None:
        return REASON
    return None if device_type == "cpu" else f"it runs on CPU tensors, not {device_type}"


def detail() -> str:
    return "" if _C is None else f"{current_isa()} of {', '.join(available_isas())}"


OPS: dict[str, Callable[..., None]] = {}
if _C is not None:
    OPS |= list_ops(_C.cpu_perturb, machine)
    OPS |= state_ops(_C.cpu_perturb_masked, _C.cpu_adam, _C.cpu_adamu, machine)
    OPS |= tt_ops(_C)
