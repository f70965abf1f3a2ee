"""Tensor lists as the C interface takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..call.codes import DISTRIBUTION, DTYPE, ROUNDING, VARIANT
from ..call.rules import AdamRule, AdaMURule

if TYPE_CHECKING:
    from .._C import TensorList

Packed = tuple[int, int, int, int, int, int, list[int], list[int], list[int]]
PackedState = tuple[int, list[int]]


def pack(source: Tensor | None, target: Tensor, stream: int, offset: int, dense: bool = True) -> Packed:
    """One tensor as (src, dst, numel, offset, stream, dtype, sizes, src strides, dst strides).
    `dense`: whether the mask or the moments that go with it are dense too."""
    dst = target.data_ptr()
    src = dst if source is target else 0 if source is None else source.data_ptr()
    head = (src, dst, target.numel(), offset, stream, DTYPE[target.dtype])
    if dense and target.is_contiguous() and (source is None or source is target or source.is_contiguous()):
        return *head, [], [], []
    strides = target.stride() if source is None else source.stride()
    return *head, list(target.shape), list(strides), list(target.stride())


def pack_list(
    params: list[Tensor], out: list[Tensor], streams: list[int], offsets: list[int]
) -> list[Packed]:
    return [pack(p, o, s, f) for p, o, s, f in zip(params, out, streams, offsets)]


def bind_list(params: list[Tensor], out: list[Tensor], streams: list[int], offsets: list[int]) -> TensorList:
    """Addresses, sizes and places; it keeps no tensor alive."""
    from .. import _C

    return _C.TensorList(pack_list(params, out, streams, offsets))


def pack_with_states(
    params: list[Tensor], out: list[Tensor], streams: list[int], offsets: list[int], *states: list[Tensor]
) -> tuple[list[Packed], list[PackedState]]:
    """The list, and its state: that of tensor 0, then of tensor 1, ... as (data, strides)."""
    tensors, packed = [], []
    for i, (p, q, stream, offset) in enumerate(zip(params, out, streams, offsets)):
        mine = [s[i] for s in states if s]
        tensors.append(pack(p, q, stream, offset, all(t.is_contiguous() for t in mine)))
        strided = bool(tensors[-1][6])
        packed += [(t.data_ptr(), list(t.stride()) if strided else []) for t in mine]
    return tensors, packed


def pack_masked(
    seeds: list[int], scales: list[float], decay: float, distribution: str, rounding: str
) -> tuple[object, ...]:
    return seeds, scales, decay, DISTRIBUTION[distribution], ROUNDING[rounding]


def pack_adam(
    seeds: list[int], grads: list[float], displacements: list[float], decay: float, rule: AdamRule,
    variant: str, distribution: str, rounding: str,
) -> tuple[object, ...]:  # fmt: skip
    numbers = (seeds, grads, displacements, decay, rule.as_list())
    return *numbers, VARIANT[variant], DISTRIBUTION[distribution], ROUNDING[rounding]


def pack_adamu(
    seed: int, scale: float, displacement: float, decay: float, rule: AdaMURule, update: bool, rounding: str
) -> tuple[object, ...]:
    return seed, scale, displacement, decay, rule.as_list(), update, ROUNDING[rounding]
