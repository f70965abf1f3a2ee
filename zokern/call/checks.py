"""Argument checks. Each failure names the argument and the value.

Every check takes the argument's name first, then its value: `check_choice("rounding", rounding, ROUNDINGS)`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .codes import DISTRIBUTIONS, DTYPES, ROUNDINGS

MAX_DIMS = 8  # ZK_MAX_DIMS of csrc/zokern.h

_SEEDS = 1 << 64


def as_list(value: Any, scalar: type | tuple[type, ...]) -> list[Any]:
    """A scalar stands for a list of one."""
    return [value] if isinstance(value, scalar) else list(value)


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return str(value)


def check_number(
    name: str, value: Any, low: float, *, above: bool = False, high: float = math.inf, integer: bool = False
) -> float:
    """`value` as a finite number with low <= value < high (low < value where `above`)."""
    kind = "an integer" if integer else "a number"
    if integer and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"{name} must be {kind} >= {low:g}, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {kind}, got {value!r}") from None
    if not math.isfinite(number) or number < low or (above and number == low) or number >= high:
        bound = f"{'>' if above else '>='} {low:g}" + ("" if high == math.inf else f" and < {high:g}")
        raise ValueError(f"{name} must be {kind} {bound}, got {value!r}")
    return number


def check_finite(name: str, value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    return number


def check_fp32(name: str, value: Any) -> float:
    """The fp32 value nearest to `value`; NaN, infinities and fp32 overflow are refused."""
    number = value if type(value) is float and math.isfinite(value) else check_finite(name, value)
    try:
        return float(struct.unpack("<f", struct.pack("<f", number))[0])
    except OverflowError:
        raise ValueError(f"{name} must be within the range of fp32, got {number}") from None


def check_seed(name: str, value: object) -> int:
    """`value` as an int of 64 bits without sign."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int in [0, 2**64), got {value!r}")
    seed = int(value.__index__())
    if not 0 <= seed < _SEEDS:
        raise ValueError(f"{name} must be in [0, 2**64), got {seed}")
    return seed


def check_seeds(name: str, values: Iterable[Any]) -> list[int]:
    return [  # what nearly every call passes needs no name
        value if type(value) is int and 0 <= value < _SEEDS else check_seed(f"{name}[{k}]", value)
        for k, value in enumerate(values)
    ]


def check_factors(name: str, values: float | Sequence[float], count: int) -> list[float]:
    """One fp32 factor a seed."""
    factors = [check_fp32(f"{name}[{k}]", v) for k, v in enumerate(as_list(values, (int, float)))]
    if len(factors) != count:
        raise ValueError(f"{name} has {len(factors)} entries for {count} seeds")
    return factors


def check_move(
    seeds: int | Sequence[int],
    scales: float | Sequence[float],
    decay: float,
    distribution: str,
    rounding: str,
) -> tuple[list[int], list[float], float]:
    """Seeds, scales and decay of `perturb_`, normalised."""
    seed_list = check_seeds("seeds", as_list(seeds, int))
    scale_list = check_factors("scales", scales, len(seed_list))
    factor = check_fp32("decay", decay)
    check_choice("distribution", distribution, DISTRIBUTIONS)
    if check_choice("rounding", rounding, ROUNDINGS) == "stochastic" and not seed_list:
        raise ValueError("rounding='stochastic' needs a seed to key its bits, got seeds=[]")
    return seed_list, scale_list, factor


def check_bounded(name: str, values: Sequence[Any], count: int, bits: int) -> list[int]:
    """A list of `count` unsigned integers below 2**bits."""
    checked = check_seeds(name, values)
    if len(checked) != count:
        raise ValueError(f"{name} has {len(checked)} entries for {count} tensors in params")
    for i, value in enumerate(checked):
        if value >= 1 << bits:
            raise ValueError(f"{name}[{i}] must be in [0, 2**{bits}), got {value}")
    return checked


def check_tensor(name: str, tensor: object, dtypes: Sequence[torch.dtype] = DTYPES) -> Tensor:
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


def check_tensors(name: str, tensors: Sequence[Any], dtypes: Sequence[torch.dtype] = DTYPES) -> None:
    for i, t in enumerate(tensors):
        plain = isinstance(t, Tensor) and t.layout is torch.strided and t.dim() <= MAX_DIMS
        if not plain or t.dtype not in dtypes:  # else sound, as nearly all are: no name is needed
            check_tensor(f"{name}[{i}]", t, dtypes)


def check_no_grad(name: str, tensors: Sequence[Tensor]) -> None:
    """An in-place write behind autograd's back would make a later backward silently wrong."""
    if not torch.is_grad_enabled():
        return
    for i, tensor in enumerate(tensors):
        if tensor.requires_grad:
            raise RuntimeError(f"{name}[{i}] requires grad and grad mode is on; call under torch.no_grad()")


def extent(tensor: Tensor) -> tuple[int, int]:
    """First and one-past-last byte that the tensor may touch."""
    start = tensor.data_ptr()
    if tensor.is_contiguous():
        return start, start + tensor.nbytes
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return start, start + (last + 1) * tensor.element_size()


def overlaps_itself(tensor: Tensor) -> bool:
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
            elif overlaps_itself(tensor):
                raise ValueError(
                    f"{name}[{i}] overlaps itself in memory: shape {tuple(tensor.shape)}, "
                    f"strides {tensor.stride()}"
                )
            else:
                start, stop = extent(tensor)
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
