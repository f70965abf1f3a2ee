"""Argument checks. Each failure names the argument and the value.

Every check takes the argument's name first, then its value: `check_choice("rounding", rounding, ROUNDINGS)`.
One vocabulary for every public function, constructor and option:

    a number     int, float, a NumPy integer or float, or a tensor or array of one element, not boolean
    an integer   the same, of an integer kind; a float is none, whatever its value
    a list       any ordered iterable; text, bytes, sets and dicts are none
    a flag       True or False
    a choice     one of the names that the message lists
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence, Set
from numbers import Real
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .codes import DISTRIBUTIONS, DTYPES, ROUNDINGS

MAX_DIMS = 8  # ZK_MAX_DIMS of csrc/zokern.h

_SEEDS = 1 << 64
_EXACT = 1 << 53  # every integer below is a float64 too
_SHOWN = 120  # characters of a value in a message
NO_LISTS = (str, bytes, bytearray, memoryview, Mapping, Set, torch.nn.Module)
_NO_VALUE = "a tensor that requires grad (taken as a number it would lose its gradient; detach it)"

T = TypeVar("T")


def shown(value: object) -> str:
    """A value as messages show it: its repr, cut off where it is long; a tensor of many elements by its kind."""
    try:
        if isinstance(value, Tensor) and (value.numel() != 1 or value.is_meta):
            return f"a {value.dtype} tensor of shape {tuple(value.shape)} on {value.device}"
        text = repr(value)
    except Exception:  # of a tensor without sizes or elements, or of the user's own __repr__
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def plain_number(value: Any) -> Any:
    """A NumPy number, or a tensor or an array of one number, as Python's; what is none of them as it is."""
    if isinstance(value, (int, float, str)) or value is None:
        return value
    if isinstance(value, Tensor):
        if (
            value.dtype == torch.bool
            or value.is_complex()
            or (value.requires_grad and torch.is_grad_enabled())
        ):
            return value
        try:
            return value.item() if value.numel() == 1 else value
        except (RuntimeError, NotImplementedError):  # meta, fake, inside vmap: there is no value to take
            return value
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "iuf" and value.size == 1:
        return value.item()
    return value


def as_number(name: str, value: Any, error: type[Exception] = TypeError, kind: str = "a number") -> float:
    """`value` as a float, of any size, NaN and infinities included."""
    number = plain_number(value)
    if isinstance(number, bool) or not isinstance(number, (Real, torch.SymInt, torch.SymFloat)):
        lost = isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad
        raise error(f"{name} must be {kind}, got {_NO_VALUE if lost else shown(value)}")
    try:
        return float(number)
    except OverflowError:
        raise ValueError(f"{name} must be within the range of float64, got {shown(value)}") from None


def as_integer(name: str, value: Any, kind: str, error: type[Exception] = TypeError) -> int:
    """`value` as an int of any size."""
    number = plain_number(value)
    if isinstance(number, (bool, Tensor)) or not hasattr(number, "__index__"):
        raise error(f"{name} must be {kind}, got {shown(value)}")
    try:
        return int(number.__index__())
    except (TypeError, RuntimeError):  # a class, an array of several numbers
        raise error(f"{name} must be {kind}, got {shown(value)}") from None


def as_sequence(name: str, value: Any, kind: str = "a list") -> list[Any]:
    """The entries of a list, a tuple or any other ordered iterable."""
    if type(value) is list or type(value) is tuple:
        return [*value]
    entries = None
    if not isinstance(value, NO_LISTS) or isinstance(value, torch.nn.ParameterList):
        try:
            entries = iter(value)
        except (TypeError, RuntimeError):  # what cannot be iterated, a sparse or a nested tensor
            entries = None
    if entries is None:
        raise TypeError(f"{name} must be {kind}, got {shown(value)}")
    return list(entries)


def as_list(value: Any, scalar: type | tuple[type, ...], name: str = "params") -> list[Any]:
    """A scalar stands for a list of one. Numbers (a scalar type other than `Tensor`) are those of NumPy and
    tensors of no dimension as well."""
    if isinstance(value, scalar):
        return [value]
    if scalar is Tensor:
        return as_sequence(name, value, "a tensor or a list of tensors")
    if getattr(value, "shape", None) == ():
        return [value]
    return as_sequence(name, value, "a number or a list of numbers")


def check_choice(name: str, value: object, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")
    return str(value)


def check_flag(name: str, value: object) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {shown(value)}")


def check_kind(name: str, value: T, kinds: type | tuple[type, ...], what: str) -> T:
    """A value of one of these classes; `what` is their name with its article."""
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {what}, got {shown(value)}")
    return value


def check_shape(name: str, shape: Any) -> list[int]:
    """A size, or sizes, from 0 on."""
    one = plain_number(shape)
    sizes = [one] if isinstance(one, (int, float)) else as_sequence(name, shape, "a size or a list of sizes")
    return [check_integer(name, size, 0) for size in sizes]


def check_device(name: str, value: Any) -> torch.device | None:
    """A device, or None for the usual one."""
    if value is None or isinstance(value, torch.device):
        return value
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError(f"{name} must be a device, got {shown(value)}")
    try:
        return torch.device(value)
    except (RuntimeError, OverflowError, ValueError) as error:
        raise ValueError(
            f"{name} must be a device, got {shown(value)}: {str(error).splitlines()[0]}"
        ) from None


def check_number(
    name: str, value: Any, low: float, *, above: bool = False, high: float = math.inf, integer: bool = False
) -> float:
    """`value` as a finite number with low <= value < high (low < value where `above`)."""
    if integer:
        return check_integer(name, value, int(low))
    kind = "a number"
    number = as_number(name, value, ValueError)
    if not math.isfinite(number) or number < low or (above and number == low) or number >= high:
        bound = f"{'>' if above else '>='} {low:g}" + ("" if high == math.inf else f" and < {high:g}")
        raise ValueError(f"{name} must be {kind} {bound}, got {shown(value)}")
    return number


def check_integer(name: str, value: Any, low: int) -> int:
    """`value` as an int with low <= value."""
    kind = f"an integer >= {low}"
    number = value if type(value) is int else as_integer(name, value, kind, ValueError)
    if number < low:
        raise ValueError(f"{name} must be {kind}, got {shown(value)}")
    if number >= _EXACT:
        raise ValueError(f"{name} must be below 2**53, got {shown(value)}")
    return number


def kept(owner: object, name: str, value: Any) -> None:
    """Puts the checked value of a frozen dataclass's field in place of the one that was given."""
    object.__setattr__(owner, name, value)


def check_share(name: str, value: Any) -> float:
    """`value` as a number in [0, 1]."""
    number = as_number(name, value)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {shown(value)}")
    return number


def check_finite(name: str, value: Any) -> float:
    number = as_number(name, value)
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
    seed = as_integer(name, value, "an int in [0, 2**64)")
    if not 0 <= seed < _SEEDS:
        raise ValueError(f"{name} must be in [0, 2**64), got {shown(seed)}")
    return seed


def check_seeds(name: str, values: Iterable[Any]) -> list[int]:
    return [  # what nearly every call passes needs no name
        value if type(value) is int and 0 <= value < _SEEDS else check_seed(f"{name}[{k}]", value)
        for k, value in enumerate(values)
    ]


def check_factors(name: str, values: float | Sequence[float], count: int) -> list[float]:
    """One fp32 factor a seed."""
    entries = as_list(values, (int, float), name)
    factors = [check_fp32(f"{name}[{k}]", v) for k, v in enumerate(entries)]
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
    seed_list = check_seeds("seeds", as_list(seeds, int, "seeds"))
    scale_list = check_factors("scales", scales, len(seed_list))
    factor = check_fp32("decay", decay)
    check_choice("distribution", distribution, DISTRIBUTIONS)
    if check_choice("rounding", rounding, ROUNDINGS) == "stochastic" and not seed_list:
        raise ValueError("rounding='stochastic' needs a seed to key its bits, got seeds=[]")
    return seed_list, scale_list, factor


def check_bounded(name: str, values: Sequence[Any], count: int, bits: int) -> list[int]:
    """A list of `count` unsigned integers below 2**bits."""
    checked = check_seeds(name, as_sequence(name, values, "a list of integers"))
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
