"""Parameters as users pass them, made into checked param groups."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ..call.checks import as_sequence, check_number, check_tensor, extent
from ..call.memory import check_in_memory
from .engine import Trainables

# option: (least value, whether the least value itself is out, largest value)
RANGES: dict[str, tuple[float, bool, float]] = {
    "lr": (0.0, False, math.inf),
    "lr_minibatch": (0.0, False, math.inf),
    "eps": (0.0, True, math.inf),
    "adam_eps": (0.0, True, math.inf),
    "weight_decay": (0.0, False, math.inf),
    "momentum": (0.0, False, 1.0),
    "sparsity": (0.0, False, 1.0),
}


def _entries(params: Any) -> list[Any]:
    if isinstance(params, nn.Module):
        return list(params.named_parameters())
    if isinstance(params, Tensor):
        return [params]
    return as_sequence("params", params, "a module or an ordered iterable of tensors")


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
    """Checks a group's entries and the options of a known range; its trainable parameters stay in it."""
    options = {**defaults, **group}
    for option, (low, above, high) in RANGES.items():
        if option in options:
            group[option] = check_number(option, options[option], low, above=above, high=high)
    kept: list[Any] = []
    seen: dict[int, str] = {}
    for i, entry in enumerate(_entries(group["params"])):
        name, p = entry if isinstance(entry, tuple) else (f"params[{i}]", entry)
        if isinstance(p, Tensor) and not p.requires_grad:
            continue
        check_tensor(name, p)
        check_in_memory(name, p)
        if id(p) in seen:
            raise ValueError(f"{name} is the same tensor as {seen[id(p)]}")
        seen[id(p)] = name
        kept.append(entry)
    group["params"] = kept


STREAMS = ("auto", "order", "name")


def find_trainables(
    groups: Sequence[Mapping[str, Any]], module: nn.Module | None = None, streams: str = "order"
) -> Trainables:
    """The trainables of checked param groups, in the order of their streams; two that overlap in part are
    refused. Of parameters that are one piece of memory under several objects, the first stands for all."""
    found = Trainables([], [], [], len(groups))
    extents: list[tuple[str, int, int, str]] = []
    known: set[tuple[object, ...]] = set()
    for g, group in enumerate(groups):
        labels = group.get("param_names") or [f"params[{i}]" for i in range(len(group["params"]))]
        for label, p in zip(labels, group["params"]):
            name = label if len(groups) == 1 or "param_names" in group else f"group {g} {label}"
            if p.numel() and p.data_ptr():  # else there is no memory to share
                place = (p.data_ptr(), p.device, p.dtype, tuple(p.shape), p.stride())
                if place in known:
                    continue
                known.add(place)
                extents.append((str(p.device), *extent(p), name))
            found.params.append(p)
            found.names.append(name)
            found.group.append(g)
    if not found.params:
        raise ValueError("params has no trainable parameter (none requires grad)")
    for (device, _, stop, first), (other, start, _, second) in pairwise(sorted(extents)):
        if device == other and start < stop:
            raise ValueError(f"{first} and {second} overlap in memory")
    return _in_order(found, groups, module, streams)


def _in_order(
    found: Trainables, groups: Sequence[Mapping[str, Any]], module: nn.Module | None, streams: str
) -> Trainables:
    """By the module or by name an order that does not depend on how parameters are grouped."""
    keys: list[Any]
    if streams == "name":
        if not all("param_names" in group for group in groups):
            raise ValueError("streams='name' needs named parameters: pass the model or named_parameters()")
        # 10 after 9
        keys = [[(not t.isdigit(), int(t) if t.isdigit() else t) for t in re.split(r"(\d+)", n)]
                for n in found.names]  # fmt: skip
    elif streams == "auto" and module is not None:
        place = {id(p): k for k, p in enumerate(module.parameters())}
        keys = [place.get(id(p), len(place)) for p in found.params]
    else:
        return found
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return Trainables(
        [found.params[i] for i in order],
        [found.names[i] for i in order],
        [found.group[i] for i in order],
        found.num_groups,
    )
