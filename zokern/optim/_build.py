"""From param groups, a module and a restore mode to a hooked engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ._groups import check_trainables
from ._hooks import land_before_use, owners, places
from .engine import Apply, Engine, InPlace, Snapshot, Trainables
from .restore_exact import Exact, choose_restore

MODES: dict[str, type[Engine]] = {"inplace": InPlace, "snapshot": Snapshot, "exact": Exact}


def build(
    groups: Sequence[Mapping[str, Any]],
    module: nn.Module | None,
    restore: str,
    lazy: bool,
    apply: Apply,
    rounding: str,
) -> tuple[Engine, list[RemovableHandle]]:
    """The engine, and the handles of its hooks.

    Raises:
        ValueError: no trainable parameter, one twice, overlapping ones, or one not in the module.
    """
    params, names = check_trainables(groups)
    group = {id(p): g for g, entry in enumerate(groups) for p in entry["params"]}
    trainables = Trainables(params, names, [group[id(p)] for p in params], len(groups))
    found: dict[nn.Module, list[int]] = {}
    if module is not None:
        found = owners(module, params)
        inside = {i for own in found.values() for i in own}
        for i, name in enumerate(names):
            if i not in inside:
                raise ValueError(f"module does not contain the parameter {name}")
    if restore == "auto":
        restore = choose_restore(params, module)
    handles: list[RemovableHandle] = []
    engine: Engine
    if restore == "exact" and module is not None:
        engine = Exact(trainables, apply, rounding, owners=found, places=places(module, found, params))
        handles += engine.handles
    else:
        engine = MODES[restore](trainables, apply, rounding)
    if module is not None and lazy and engine.defers:
        handles += land_before_use(module, found, engine)
    return engine, handles


def detach(engine: Engine, handles: list[RemovableHandle]) -> None:
    """Lands the weights and removes the hooks: what is left to do when an optimizer goes."""
    with torch.no_grad():
        engine.land()
    for handle in handles:
        handle.remove()
