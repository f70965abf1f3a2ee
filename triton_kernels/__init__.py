"""The triton backend: the same bits as every other backend, with no compiler at install time.

On a CUDA device Triton compiles the kernels at first use. On the CPU they run only under Triton's
interpreter (`TRITON_INTERPRET=1`, set before the first import), which is how they are tested
without a device; that needs a Triton whose interpreter rounds `tl.fma` once (3.9 does, 3.3 not).
"""

import functools
import gc
from collections.abc import Callable
from typing import Any

from .adam import adam_
from .adamu import adamu_probe_, adamu_update_
from .availability import unavailable_reason
from .masked import perturb_masked_
from .perturb import INTERPRETED, normal_, perturb_
from .tt import tt_adapter, tt_halves, tt_linear

__all__ = ["OPS", "unavailable_reason"]


def _alone(op: Callable[..., Any]) -> Callable[..., Any]:
    """Runs no garbage collection inside `op`.

    Triton's interpreter keeps its place in the grid in one global. A collection may free an optimizer, which
    then lands its weights, and so starts a kernel of its own inside the one that runs.
    """

    @functools.wraps(op)
    def run(*arguments: Any, **keywords: Any) -> Any:
        collecting = gc.isenabled()
        gc.disable()
        try:
            return op(*arguments, **keywords)
        finally:
            if collecting:
                gc.enable()

    return run


OPS = {
    "perturb_": perturb_,
    "normal_": normal_,
    "perturb_masked_": perturb_masked_,
    "adam_": adam_,
    "adamu_probe_": adamu_probe_,
    "adamu_update_": adamu_update_,
    "tt_halves": tt_halves,
    "tt_linear": tt_linear,
    "tt_adapter": tt_adapter,
}

if INTERPRETED:
    OPS = {name: _alone(op) for name, op in OPS.items()}
