"""Argument checks shared by the ops. Each failure names the argument and the value."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..random import check_seed

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DISTRIBUTIONS = ("gaussian", "rademacher")
ROUNDINGS = ("nearest", "stochastic")
MAX_DIMS = 8


def as_list(value: Any, scalar: type | tuple[type, ...]) -> list[Any]:
    """A scalar stands for a list of one."""
    return [value] if isinstance(value, scalar) else list(value)


def check_choice(value: object, choices: Sequence[str], name: str) -> str:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return str(value)


def check_fp32(value: Any, name: str) -> float:
    """The fp32 value nearest to `value`; NaN, infinities and fp32 overflow are refused."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    try:
        return float(struct.unpack("<f", struct.pack("<f", number))[0])
    except OverflowError:
        raise ValueError(f"{name} must be within the range of fp32, got {number}") from None


def check_seeds(seeds: Iterable[Any]) -> list[int]:
    return [check_seed(seed, f"seeds[{k}]") for k, seed in enumerate(seeds)]


def check_bounded(values: Sequence[Any] | None, count: int, bits: int, name: str) -> list[int]:
    """A list of `count` unsigned integers below 2**bits."""
    if values is None:
        raise TypeError(f"{name} must not be None here")
    checked = [check_seed(v, f"{name}[{i}]") for i, v in enumerate(values)]
    if len(checked) != count:
        raise ValueError(f"{name} has {len(checked)} entries for {count} tensors in params")
    for i, value in enumerate(checked):
        if value >= 1 << bits:
            raise ValueError(f"{name}[{i}] must be in [0, 2**{bits}), got {value}")
    return checked


def check_tensor(tensor: object, name: str, dtypes: Sequence[torch.dtype] = DTYPES) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in dtypes:
        known = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
        raise TypeError(f"{name} has dtype {tensor.dtype}; supported: {known}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} has layout {tensor.layout}; only torch.strided is supported")
    if tensor.dim() > MAX_DIMS and not tensor.is_contiguous():
        raise ValueError(f"{name} is strided with {tensor.dim()} dimensions; at most {MAX_DIMS}")
    return tensor


def check_no_grad(tensors: Sequence[Tensor], name: str) -> None:
    """An in-place write behind autograd's back would make a later backward silently wrong."""
    if not torch.is_grad_enabled():
        return
    for i, tensor in enumerate(tensors):
        if tensor.requires_grad:
            raise RuntimeError(f"{name}[{i}] requires grad and grad mode is on; call under torch.no_grad()")


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First and one-past-last byte that the tensor may touch."""
    start = tensor.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return start, start + (last + 1) * tensor.element_size()


def _overlaps_itself(tensor: Tensor) -> bool:
    """Whether two indices reach one element (an expanded tensor). Exact for nested strides,
    the only ones PyTorch's own operations make; an odd `as_strided` is judged conservatively."""
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape)):
        if size == 1:
            continue
        if stride < reach:
            return True
        reach = stride * (size - 1) + reach
    return False


def check_no_overlap(**lists: Sequence[Tensor]) -> None:
    """Refuses tensors that share memory, within a list or across the named lists."""
    extents = []
    for name, tensors in lists.items():
        for i, tensor in enumerate(tensors):
            if tensor.is_contiguous():  # all but a few, and quicker than the sum over dimensions
                start = tensor.data_ptr()
                stop = start + tensor.nbytes
            elif _overlaps_itself(tensor):
                raise ValueError(
                    f"{name}[{i}] overlaps itself in memory: shape {tuple(tensor.shape)}, "
                    f"strides {tensor.stride()}"
                )
            else:
                start, stop = _extent(tensor)
            if start < stop:  # else empty, and overlaps nothing
                extents.append((start, stop, name, i))
    extents.sort()
    reached = 0
    for k, (start, stop, name, i) in enumerate(extents):
        if start < reached:
            _, _, other, j = extents[k - 1]
            raise ValueError(
                f"{other}[{j}] and {name}[{i}] overlap in memory (tied weights are to be passed once)"
            )
        reached = stop
