"""Which way weights come back from a probe, and the hooked engine that does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ._hooks import land_before_use, owners, places
from .engine import Engine, Trainables
from .moves import Apply
from .restore_exact import Exact
from .restore_inplace import InPlace
from .restore_snapshot import Snapshot

MODES = ("inplace", "exact", "snapshot")

SMALL = 1 / 16
"""Of the module's bytes: up to here a copy of the trainables is no burden."""


@dataclass(frozen=True)
class Needs:
    """What a method, its perturbation and its evaluation ask of a restore mode."""

    batched: bool = False  # all points are evaluated in one forward: no weight is displaced
    committed: bool = False  # passes look at the weights they start from, which are to be the committed ones
    anchor: bool = False  # points around a copy of earlier weights are visited, with no move there and back
    copies_small_sets: bool = False  # a small trainable set is copied whatever its dtype


def choose_restore(asked: str, needs: Needs, params: Sequence[Tensor], module: nn.Module | None) -> str:
    """The mode that `restore=asked` means.

    "auto" is "snapshot" where evaluation is batched. Where a perturbation or an anchor needs the
    committed weights it is "exact" if there is a module that takes hooks. For the rest, float32 and
    float64 are moved in place. With any bfloat16 or float16 trainable (where moving weights to and fro
    drifts by 12 % of their rms in 1 000 bf16 steps): "snapshot" with bare parameters, for a compiled
    module (hooks would break its graph), and for small trainable sets, as adapters are: the copy is
    then no burden and one pass is faster than a pass a module. Otherwise "exact".
    """
    if needs.batched and asked not in ("auto", "snapshot"):
        raise ValueError(
            f"restore must be 'auto' or 'snapshot' with evaluation='batched', which displaces no weight, "
            f"got {asked!r}"
        )
    if needs.anchor and asked == "inplace":
        raise ValueError(
            "anchor='copy' visits the copy without moving it, and so needs restore='exact' or "
            "'snapshot', got 'inplace'"
        )
    if asked != "auto":
        return asked
    if needs.batched:
        return "snapshot"
    hooked = module is not None and takes_hooks(module)
    if (needs.anchor or needs.committed) and hooked:
        return "exact"
    if needs.anchor:
        return "snapshot"
    small = module is not None and _is_small(module, params)
    if all(p.dtype in (torch.float32, torch.float64) for p in params):
        return "snapshot" if small and needs.copies_small_sets else "inplace"
    return "exact" if hooked and not small else "snapshot"


def takes_hooks(module: nn.Module) -> bool:
    """Whether no part of it is compiled: hooks would break its graph."""
    return not any(
        getattr(m, "_compiled_call_impl", None) is not None or hasattr(m, "_orig_mod")
        for m in module.modules()
    )


def _is_small(module: nn.Module, params: Sequence[Tensor]) -> bool:
    total = sum(p.numel() * p.element_size() for p in module.parameters())
    return sum(p.numel() * p.element_size() for p in params) <= SMALL * total


def build(
    trainables: Trainables, module: nn.Module | None, restore: str, lazy: bool, apply: Apply, rounding: str
) -> tuple[Engine, list[RemovableHandle]]:
    """The engine of a mode that was chosen, and the handles of its hooks."""
    found = {} if module is None else owners(module, trainables.params)
    inside = {i for own in found.values() for i in own}
    for i, name in enumerate(trainables.names):
        if module is not None and i not in inside:
            raise ValueError(f"module does not contain the parameter {name}")
    if restore == "exact" and module is not None:
        at = places(module, found, trainables.params)
        attention = any(isinstance(m, nn.MultiheadAttention) for m in module.modules())
        seldom = attention or not takes_hooks(module)
        exact = Exact(trainables, apply, rounding, owners=found, places=at, seldom_watched=seldom)
        return exact, exact.handles
    engine = (InPlace if restore == "inplace" else Snapshot)(trainables, apply, rounding)
    return engine, land_before_use(module, found, engine) if module is not None and lazy else []


def detach(engine: Engine, handles: list[RemovableHandle]) -> None:
    """Lands the weights and removes the hooks: what is left to do when an optimizer goes."""
    with torch.no_grad():
        engine.land()
    for handle in handles:
        handle.remove()
