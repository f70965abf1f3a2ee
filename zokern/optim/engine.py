r"""The engine: the only place that knows where the weights are.

An optimizer names points (committed weights plus a short combination of seeded directions) and says
what it commits. An affine map a param group relates weights in memory to the committed ones
(`moves.py`), so that going to a point, coming back and updating are one pass each, or share one:

    evaluate(o)    one pass with (decay, terms + o); the map becomes (1, -o)
    commit(u, l)   no pass: the map becomes (l * decay, l * terms + u)
    land()         one pass with the map; it becomes the identity

`restore_inplace.py` keeps that map. `restore_snapshot.py` keeps the committed weights beside the
parameters, and so needs the map for the update only. `restore_exact.py` never displaces a weight.
Which of them an optimizer gets is decided in `restore.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ._derived import forget_derived
from .moves import IDENTITY, Affine, Apply, Pass, Point, Terms, uninterrupted

Tensors = Mapping[int, Tensor] | Sequence[Tensor]
"""Ordinal of a trainable to a tensor."""


@dataclass(frozen=True)
class Trainables:
    """The flattened, de-duplicated trainable parameters; the i-th is in param group `group[i]`."""

    params: list[Tensor]
    names: list[str]
    group: list[int]
    num_groups: int


def same_kind(a: Tensor, b: Tensor) -> bool:
    """Whether one can take the other's values as they are."""
    return (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)


class Engine(ABC):
    """What `ZerothOrderOptimizer` asks for; one subclass a way of restoring weights.

    `rounding` is that of passes that hold an update, for 16-bit parameters: probes round to nearest.
    `indices` are the trainables that this engine looks after, by default all.
    """

    mode: ClassVar[str]
    """Its name as `restore=` takes it."""

    defers = True
    """Whether leaving an update pending saves a pass (`lazy=True`)."""

    def __init__(
        self, trainables: Trainables, apply: Apply, rounding: str, indices: Sequence[int] | None = None
    ) -> None:
        self.trainables = trainables
        self.apply = apply
        self.rounding = rounding
        self.indices = list(range(len(trainables.params)) if indices is None else indices)
        self.map = [IDENTITY] * trainables.num_groups
        self.frozen: frozenset[int] = frozenset()
        self.busy = 0
        self.hooked = False
        self.seconds_in_hooks = 0.0

    @property
    def pending(self) -> bool:
        """Whether weights in memory are not the committed ones."""
        return any(not m.is_identity() for m in self.map)

    @abstractmethod
    def evaluate(self, run: Callable[[], float], offsets: Point) -> float:
        """The value of `run` with committed + offset in place (one offset a group)."""

    @abstractmethod
    def revisit(self, offsets: Point) -> None:
        """What `evaluate` does to the weights, without running anything: for replay."""

    def commit(self, decay: Sequence[float], terms: Sequence[Terms]) -> None:
        """Changes the committed weights to `decay * committed + terms`; no pass."""
        self.map = [m.then(d, t) for m, d, t in zip(self.map, decay, terms)]

    @abstractmethod
    def update(self, apply: Apply, merge: bool = False) -> None:
        """Makes memory the committed weights, through `apply`: for fused updates.

        `apply` gets one pass a group and device (groups that move alike in one with `merge`), whose decay
        and terms lead to the committed weights. What it writes to the target becomes those.
        """

    def hold_still(self, frozen: frozenset[int]) -> None:
        """From here on these trainables stay as they are."""
        self.land()
        self.frozen = frozen

    def land(self) -> None:
        """Makes memory the committed weights; no pass when it is."""
        if self.pending:
            self.update(self.apply, merge=True)

    def state(self) -> dict[str, Any]:
        """What a continued run has to know, as plain Python."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Takes over what `state` returned, of this or another restore mode."""

    def _carry_out(self, source: Tensors, target: Tensors, apply: Apply, merge: bool = True) -> None:
        """Moves by the map, which is then the identity."""
        with uninterrupted():
            self._walk(self.map, source, target, apply, merge=merge)
            self.map = [IDENTITY] * len(self.map)

    def _walk(
        self,
        moves: Sequence[Affine],
        source: Tensors,
        target: Tensors,
        apply: Apply,
        *,
        merge: bool = True,
        indices: Sequence[int] | None = None,
        moved: Callable[[int], None] = lambda group: None,
    ) -> None:
        """Moves `indices`, in as few passes as settings and devices allow. `moved(group)` is called
        when all of a group has moved, so that an error in between loses no weights."""
        chosen = self.indices if indices is None else indices
        if self.frozen:
            chosen = [i for i in chosen if i not in self.frozen]
        forget_derived()
        keys = [m.key() if merge else g for g, m in enumerate(moves)]
        alike = [keys.index(key) for key in keys]
        for first in dict.fromkeys(alike):
            move = moves[first]
            rounding = "nearest" if move.rounding_seed is None else self.rounding
            for members in _by_device(self._in_groups(chosen, alike, first), source):
                read = [source[i] for i in members]
                write = read if target is source else [target[i] for i in members]
                apply(Pass(members, first, read, write, move.decay, move.terms, rounding, move.rounding_seed))
            for g, a in enumerate(alike):
                if a == first:
                    moved(g)

    def _in_groups(self, chosen: Sequence[int], alike: list[int], first: int) -> list[int]:
        """Those of `chosen` in a group that moves as group `first`."""
        if alike.count(first) == len(alike):
            return list(chosen)
        group = self.trainables.group
        return [i for i in chosen if alike[group[i]] == first]


def _by_device(members: list[int], tensors: Tensors) -> Iterable[list[int]]:
    devices = [tensors[i].device for i in members]
    if len(set(devices)) < 2:
        return [members] if members else []
    apart: dict[torch.device, list[int]] = {}
    for i, device in zip(members, devices):
        apart.setdefault(device, []).append(i)
    return apart.values()
