"""Parameters as users pass them, made into checked param groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ..call.checks import check_number
from ..call.codes import DTYPES

# option: (least value, whether the least value itself is out, largest value)
RANGES: dict[str, tuple[float, bool, float]] = {
    "lr": (0.0, False, math.inf),
    "lr_minibatch": (0.0, False, math.inf),
    "eps": (0.0, True, math.inf),
    "weight_decay": (0.0, False, math.inf),
    "momentum": (0.0, False, 1.0),
    "sparsity": (0.0, False, 1.0),
}


def check_options(options: Mapping[str, Any], where: str = "") -> None:
    """Checks the options whose range is known (`RANGES`)."""
    for name, (low, above, high) in RANGES.items():
        if name in options:
            check_number(where + name, options[name], low, above=above, high=high)


def _entries(params: Any) -> list[Any]:
    if isinstance(params, nn.Module):
        return list(params.named_parameters())
    if isinstance(params, Tensor):
        return [params]
    if isinstance(params, (set, frozenset)):
        raise TypeError("params must be ordered, got a set")
    return list(params)


def as_groups(params: nn.Module | Iterable[Any]) -> list[dict[str, Any]]:
    """The param groups meant by a module, tensors, named tensors or dicts; no dict is changed."""
    if isinstance(params, Tensor):
        raise TypeError("params must be a module or an iterable of tensors, got a Tensor")
    entries = _entries(params)
    if not entries:
        raise ValueError("params is empty")
    if not isinstance(entries[0], dict):
        return [{"params": entries}]
    for i, group in enumerate(entries):
        if not isinstance(group, dict) or "params" not in group:
            raise ValueError(f"param group {i} must be a dict with 'params', got {group!r}")
    return [dict(group) for group in entries]


def check_group(defaults: Mapping[str, Any], group: dict[str, Any]) -> None:
    """Checks a group's options and leaves its trainable parameters in it.

    Raises:
        TypeError: an entry is no tensor, or its dtype is not supported.
        ValueError: an option is out of range, or a parameter occurs twice.
    """
    check_options({**defaults, **{k: v for k, v in group.items() if k != "params"}})
    kept: list[Any] = []
    seen: dict[int, str] = {}
    for i, entry in enumerate(_entries(group["params"])):
        name, p = entry if isinstance(entry, tuple) else (f"params[{i}]", entry)
        if not isinstance(p, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(p).__name__}")
        if not p.requires_grad:
            continue
        if p.dtype not in DTYPES:
            known = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
            raise TypeError(f"{name} has dtype {p.dtype}; supported: {known}")
        if id(p) in seen:
            raise ValueError(f"{name} is the same tensor as {seen[id(p)]}")
        seen[id(p)] = name
        kept.append(entry)
    group["params"] = kept


def check_trainables(groups: Sequence[Mapping[str, Any]]) -> tuple[list[Tensor], list[str]]:
    """All trainables and their names, in order. Of parameters that are one piece of memory under
    several objects, the first stands for all.

    Raises:
        ValueError: there is none, or two overlap in part.
    """
    params: list[Tensor] = []
    names: list[str] = []
    places: dict[tuple[object, ...], str] = {}
    for g, group in enumerate(groups):
        labels = group.get("param_names") or [f"params[{i}]" for i in range(len(group["params"]))]
        for label, p in zip(labels, group["params"]):
            name = label if len(groups) == 1 or "param_names" in group else f"group {g} {label}"
            place = (p.data_ptr(), p.device, p.dtype, tuple(p.shape), p.stride())
            if p.numel() and p.data_ptr() and place in places:
                continue
            places[place] = name
            params.append(p)
            names.append(name)
    if not params:
        raise ValueError("params has no trainable parameter (none requires grad)")
    _check_apart(params, names)
    return params, names


def _check_apart(params: Sequence[Tensor], names: Sequence[str]) -> None:
    """Raises where two parameters share a part of their memory."""
    extents = []
    for p, name in zip(params, names):
        if p.numel() and p.data_ptr():
            last = sum((size - 1) * stride for size, stride in zip(p.shape, p.stride()))
            start = p.data_ptr()
            extents.append((str(p.device), start, start + (last + 1) * p.element_size(), name))
    extents.sort()
    for (device, _, stop, first), (other, start, _, second) in pairwise(extents):
        if device == other and start < stop:
            raise ValueError(f"{first} and {second} overlap in memory")
