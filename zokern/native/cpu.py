"""The CPU backend: portable, AVX2 and AVX-512 kernels, chosen at run time.

`ZOKERN_ISA=portable|avx2|avx512` or `use_backend("cpu", isa=...)` asks for one. Threads are
`torch.get_num_threads()`; results do not depend on either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..call.codes import DISTRIBUTION, ROUNDING
from ..call.prepared import ListKernel
from ._isa import _C, REASON, available_isas, check_isa, current_isa, machine
from ._lists import bind_list, pack
from .states import state_ops
from .tt_cpu import tt_ops

if TYPE_CHECKING:
    from .._C import TensorList

__all__ = ["OPS", "available_isas", "check_isa", "current_isa", "detail", "unavailable_reason"]


def unavailable_reason(device_type: str) -> str | None:
    if REASON is not None:
        return REASON
    return None if device_type == "cpu" else f"it runs on CPU tensors, not {device_type}"


def detail() -> str:
    return "" if _C is None else f"{current_isa()} of {', '.join(available_isas())}"


def _run(tensors: TensorList, device: torch.device, seeds: list[int], scales: list[float],
         decay: float, lane: int, distribution: str, rounding: str) -> None:  # fmt: skip
    _C.cpu_perturb(tensors, seeds, scales, decay, lane, DISTRIBUTION[distribution],
                   ROUNDING[rounding], *machine(device))  # fmt: skip


def normal_(out: Tensor, seed: int, stream: int, lane: int, offset: int, distribution: str) -> None:
    """Fills `out`: a move from zeros with scale 1."""
    tensors = _C.TensorList([pack(None, out, stream, offset)])
    _run(tensors, out.device, [seed], [1.0], 1.0, lane, distribution, "nearest")


OPS = {"perturb_": ListKernel(bind_list, _run), "normal_": normal_}
if _C is not None:
    OPS |= state_ops(_C.cpu_perturb_masked, _C.cpu_adam, _C.cpu_adamu, machine)
    OPS |= tt_ops(_C)
