"""Whether tensors still look as they did: what a kept call compares before it trusts its notes.

A tensor keeps its identity and its address through `transpose_`, `resize_`, `set_` and `.data = ...`, and a view
of negated values has the address of the values. So sizes, strides, dtypes, devices, types and negative bits
are compared as well. PyTorch's own guards compare all of that in 0.1 us a tensor; where this PyTorch has no
such class, or the thread is in another mode than when the guard was made, Python compares it in 0.6 us.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor

TensorGuards: Any = None
with contextlib.suppress(ImportError):
    TensorGuards = importlib.import_module("torch._C._dynamo.guards").TensorGuards


def _looks(tensors: Sequence[Tensor]) -> list[tuple[Any, ...]]:
    return [(type(t), t.dtype, t.device, t.size(), t.stride(), t.is_neg(), t.layout) for t in tensors]


def _guard(tensors: Sequence[Tensor]) -> Any:
    if TensorGuards is None:
        return None
    sizes, strides = [list(t.size()) for t in tensors], [list(t.stride()) for t in tensors]
    try:
        return TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
    except (TypeError, RuntimeError, SystemError):  # its arguments are PyTorch's own business
        return None


class Unchanged:
    """Compares tensors with those it was made from, all but addresses and values. It keeps none alive."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._looks = _looks(tensors)
        self._guard = _guard(tensors)

    def __call__(self, tensors: Sequence[Tensor]) -> bool:
        if self._guard is not None and self._guard.check(*tensors):
            return True
        if _looks(tensors) != self._looks:
            return False
        self._guard = _guard(tensors)  # requires_grad or the thread's modes are others
        return True
