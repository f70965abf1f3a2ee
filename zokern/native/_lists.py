"""Tensor lists as the C interface takes them, and the entries that take nothing beside one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..call.codes import DISTRIBUTION, DTYPE, ROUNDING
from ..call.prepared import ListKernel

if TYPE_CHECKING:
    from .._C import TensorList

Machine = Callable[[torch.device], tuple[Any, ...]]
"""The kernels' last arguments: instruction set and threads, or device and stream."""
OUT_SHIFT = 8  # ZK_OUT_SHIFT of csrc/zokern.h
Packed = tuple[int, int, int, int, int, int, list[int], list[int], list[int]]
PackedState = tuple[int, list[int]]


def pack(source: Tensor | None, target: Tensor, stream: int, offset: int, dense: bool = True) -> Packed:
    """One tensor as (src, dst, numel, offset, stream, dtype, sizes, src strides, dst strides).
    `dense`: whether the mask or the moments that go with it are dense too."""
    dst = target.data_ptr()
    src = dst if source is target else 0 if source is None else source.data_ptr()
    dtype = DTYPE[target.dtype]
    if source is not None and source.dtype != target.dtype:
        dtype = DTYPE[source.dtype] + ((1 + dtype) << OUT_SHIFT)
    head = (src, dst, target.numel(), offset, stream, dtype)
    if dense and target.is_contiguous() and (source is None or source is target or source.is_contiguous()):
        return *head, [], [], []
    strides = target.stride() if source is None else source.stride()
    return *head, list(target.shape), list(strides), list(target.stride())


def bind_list(
    params: Sequence[Tensor | None], out: list[Tensor], streams: list[int], offsets: list[int]
) -> TensorList:
    """Addresses, sizes and places; it keeps no tensor alive."""
    from .. import _C

    return _C.TensorList([pack(p, o, s, f) for p, o, s, f in zip(params, out, streams, offsets)])


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


def list_ops(perturb: Callable[..., None], machine: Machine) -> dict[str, Callable[..., None]]:
    """A backend's entries that read and write nothing but a list."""

    def run(tensors: TensorList, device: torch.device, *move: Any) -> None:
        *numbers, distribution, rounding = move
        perturb(tensors, *numbers, DISTRIBUTION[distribution], ROUNDING[rounding], *machine(device))

    def normal_(out: Tensor, seed: int, stream: int, lane: int, offset: int, distribution: str) -> None:
        """Fills `out`: a move from zeros with scale 1."""
        tensors = bind_list([None], [out], [stream], [offset])
        run(tensors, out.device, [seed], [1.0], 1.0, lane, distribution, "nearest")

    return {"perturb_": ListKernel(bind_list, run), "normal_": normal_}
