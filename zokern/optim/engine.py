r"""The engine: the only place that knows where the weights are.

An optimizer names points (committed weights plus a short combination of seeded directions) and says
what it commits. Weights in memory are related to the committed ones by an affine map a param group,

    committed = decay * memory + sum_k terms[k] * z(k),

so that going to a point, coming back and updating are one pass each, or share one:

    evaluate(o)    one pass with (decay, terms + o); the map becomes (1, -o)
    commit(u, l)   no pass: the map becomes (l * decay, l * terms + u)
    land()         one pass with the map; it becomes the identity

Coefficients are merged as Python floats (float64) and rounded to fp32 once, by the op.

`InPlace` keeps that map. `Snapshot` keeps the committed weights beside the parameters, and so needs
the map for the update only. `Exact` (in `restore_exact.py`) never displaces a weight.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..ops import perturb_

Key = Hashable
"""A direction: the integer seed of a z, or any hashable object that the `Apply` in use reads."""

Terms = dict[Key, float]


@dataclass(frozen=True)
class Affine:
    """`decay * x + sum terms[k] * z(k)`. `update` says that it holds a committed update, which is
    what stochastic rounding is for."""

    decay: float = 1.0
    terms: Terms = field(default_factory=dict)
    update: bool = False

    def is_identity(self) -> bool:
        return self.decay == 1.0 and not any(self.terms.values())

    def plus(self, offset: Terms) -> Affine:
        """Displaced further by `offset`, whose directions go first."""
        return Affine(self.decay, _add(offset, self.terms), self.update)

    def then(self, decay: float, terms: Terms) -> Affine:
        """Followed by `x <- decay * x + terms`, whose directions go first."""
        scaled = {key: decay * value for key, value in self.terms.items()}
        return Affine(decay * self.decay, _add(terms, scaled), True)

    def key(self) -> tuple[object, ...]:
        return (self.decay, tuple(self.terms.items()), self.update)


IDENTITY = Affine()


def _add(first: Terms, second: Terms) -> Terms:
    """Sum, in the order of `first`, then of what only `second` has. Zeros are dropped, except that
    of the first direction: it keys stochastic rounding, and an older one has done so before."""
    total = dict(first)
    for key, value in second.items():
        total[key] = total.get(key, 0.0) + value
    return {key: value for n, (key, value) in enumerate(total.items()) if value != 0.0 or n == 0}


@dataclass(frozen=True)
class Batch:
    """One pass: `target <- decay * source + sum terms[k] * z(k)`, tensor by tensor.

    Args:
        indices: ordinals of the trainables, which are also their streams.
        group: param group (the first, where groups that move alike were merged).
        source: read, one device.
        target: written; `target is source` in place.
        decay: factor of the source.
        terms: direction to coefficient, the freshest direction first.
        rounding: "nearest" or "stochastic".
    """

    indices: list[int]
    group: int
    source: list[Tensor]
    target: list[Tensor]
    decay: float
    terms: Terms
    rounding: str

    def then(self, decay: float) -> Batch:
        """The same, followed by a decay."""
        terms = {key: decay * value for key, value in self.terms.items()}
        return replace(self, decay=decay * self.decay, terms=terms)

    def part(self, chosen: Sequence[int]) -> Batch:
        """The same for some of the tensors (positions in the batch)."""
        source = [self.source[n] for n in chosen]
        target = source if self.target is self.source else [self.target[n] for n in chosen]
        return replace(self, indices=[self.indices[n] for n in chosen], source=source, target=target)

    def is_identity(self) -> bool:
        return self.target is self.source and self.decay == 1.0 and not any(self.terms.values())


Apply = Callable[[Batch], None]
"""Carries out one pass. A method with masks or dense state gives the base class its own."""


@dataclass(frozen=True)
class ApplySeeds:
    """The usual pass: every direction is an integer seed; one `zokern.perturb_` call."""

    distribution: str = "gaussian"

    def __call__(self, batch: Batch) -> None:
        if batch.is_identity():
            return
        perturb_(
            batch.source,
            list(batch.terms),  # type: ignore[arg-type]
            list(batch.terms.values()),
            decay=batch.decay,
            streams=batch.indices,
            distribution=self.distribution,
            rounding=batch.rounding if batch.terms else "nearest",
            out=None if batch.target is batch.source else batch.target,
        )


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


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C back until the block is done: a pass and the note of it stay together."""
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous is None:
        yield
        return
    caught: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if caught:
            signal.raise_signal(signal.SIGINT)


class Engine(ABC):
    """What `ZerothOrderOptimizer` asks for; one subclass a way of restoring weights.

    Args:
        trainables: all trainable parameters.
        apply: carries out one pass.
        rounding: of passes that hold an update, for 16-bit parameters; probes round to nearest.
        indices: the trainables this engine looks after; default all.
    """

    defers = True
    """Whether leaving an update pending saves a pass (`lazy=True`)."""

    def __init__(
        self,
        trainables: Trainables,
        apply: Apply,
        rounding: str,
        indices: Sequence[int] | None = None,
    ) -> None:
        self.trainables = trainables
        self.apply = apply
        self.rounding = rounding
        self.indices = list(range(len(trainables.params)) if indices is None else indices)
        self.map = [IDENTITY] * trainables.num_groups
        self.busy = 0
        self.hooked = False
        self.seconds_in_hooks = 0.0

    @property
    def pending(self) -> bool:
        """Whether weights in memory are not the committed ones."""
        return any(not m.is_identity() for m in self.map)

    @abstractmethod
    def evaluate(self, run: Callable[[], float], offsets: Sequence[Terms]) -> float:
        """The value of `run` with committed + offset in place (one offset a group)."""

    @abstractmethod
    def revisit(self, offsets: Sequence[Terms]) -> None:
        """What `evaluate` does to the weights, without running anything: for replay."""

    def commit(self, decay: Sequence[float], terms: Sequence[Terms]) -> None:
        """Changes the committed weights to `decay * committed + terms`; no pass."""
        self.map = [m.then(d, t) for m, d, t in zip(self.map, decay, terms)]

    @abstractmethod
    def update(self, apply: Apply, merge: bool = False) -> None:
        """Makes memory the committed weights, through `apply`: for fused updates.

        `apply` gets one batch a group and device (groups that move alike in one with `merge`). The
        batch's decay and terms lead from its source to the committed weights; what `apply` writes
        to the target becomes the committed weights.
        """

    def land(self) -> None:
        """Makes memory the committed weights; no pass when it is."""
        if self.pending:
            self.update(self.apply, merge=True)

    def state(self) -> dict[str, Any]:
        """What a continued run has to know, as plain Python."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Takes over what `state` returned, of this or another restore mode."""

    def _walk(
        self,
        moves: Sequence[Affine],
        source: Mapping[int, Tensor] | Sequence[Tensor],
        target: Mapping[int, Tensor] | Sequence[Tensor],
        apply: Apply,
        *,
        merge: bool = True,
        indices: Sequence[int] | None = None,
        moved: Callable[[int], None] = lambda group: None,
    ) -> None:
        """One pass over `indices`, in as few batches as settings and devices allow. `moved(group)`
        is called when all of a group has moved, so that an error in between loses no weights."""
        group = self.trainables.group
        alike = list(range(len(moves)))
        if merge and len(moves) > 1:
            keys = [m.key() for m in moves]
            alike = [keys.index(key) for key in keys]
        batches: dict[int, dict[torch.device, list[int]]] = {}
        for i in self.indices if indices is None else indices:
            devices = batches.setdefault(alike[group[i]], {})
            devices.setdefault(source[i].device, []).append(i)
        for first, devices in batches.items():
            move = moves[first]
            for members in devices.values():
                read = [source[i] for i in members]
                write = read if target is source else [target[i] for i in members]
                rounding = self.rounding if move.update else "nearest"
                apply(Batch(members, first, read, write, move.decay, move.terms, rounding))
            for g, a in enumerate(alike):
                if a == first:
                    moved(g)


class InPlace(Engine):
    """Moves the weights themselves. No extra memory; restored to rounding (fp32 drifts by
    6e-8 * sqrt(steps) relative)."""

    def evaluate(self, run: Callable[[], float], offsets: Sequence[Terms]) -> float:
        self.revisit(offsets)
        return run()

    def revisit(self, offsets: Sequence[Terms]) -> None:
        back = [Affine(1.0, {key: -value for key, value in o.items()}) for o in offsets]
        self._move([m.plus(o) for m, o in zip(self.map, offsets)], back, self.apply, merge=True)

    def update(self, apply: Apply, merge: bool = False) -> None:
        self._move(self.map, [IDENTITY] * len(self.map), apply, merge)

    def _move(self, moves: Sequence[Affine], after: Sequence[Affine], apply: Apply, merge: bool) -> None:
        params = self.trainables.params

        def moved(group: int) -> None:
            self.map[group] = after[group]

        self.map = list(self.map)
        with uninterrupted():
            self._walk(list(moves), params, params, apply, merge=merge, moved=moved)
            self.map = list(after)  # of groups without members too


class Snapshot(Engine):
    """Keeps a copy of its trainables and writes perturbed values over the parameters. Restores bit
    for bit. The copy is refreshed at a step's first probe, so writes between steps count."""

    def __init__(
        self,
        trainables: Trainables,
        apply: Apply,
        rounding: str,
        indices: Sequence[int] | None = None,
    ) -> None:
        super().__init__(trainables, apply, rounding, indices)
        self.held: dict[int, Tensor] = {}
        self.displaced = False

    @property
    def pending(self) -> bool:
        return self.displaced or super().pending

    def evaluate(self, run: Callable[[], float], offsets: Sequence[Terms]) -> float:
        self.show(offsets)
        return run()

    def show(self, offsets: Sequence[Terms]) -> None:
        """Puts committed + offset into the parameters."""
        self.revisit(offsets)
        if not self.displaced:
            if not any(any(o.values()) for o in offsets):
                return
            with uninterrupted():
                self._copy(hold=True)
                self.displaced = True
        self._walk([Affine(1.0, o) for o in offsets], self.held, self.trainables.params, self.apply)

    def revisit(self, offsets: Sequence[Terms]) -> None:
        """Applies what is pending to the committed weights, wherever they are."""
        if not super().pending:
            return
        base = self.held if self.displaced else self.trainables.params
        with uninterrupted():
            self._walk(self.map, base, base, self.apply)
            self.map = [IDENTITY] * len(self.map)

    def update(self, apply: Apply, merge: bool = False) -> None:
        params = self.trainables.params
        base = self.held if self.displaced else params
        with uninterrupted():
            self._walk(self.map, base, params, apply, merge=merge)
            self.map = [IDENTITY] * len(self.map)
            self.displaced = False

    def land(self) -> None:
        if self.displaced and not super().pending:
            with uninterrupted():
                self._copy(hold=False)
                self.displaced = False
        super().land()

    def add(self, indices: Iterable[int]) -> None:
        """Looks after more trainables, whose weights are in place now."""
        added = sorted(set(indices) - set(self.indices))
        with uninterrupted():
            if self.displaced:
                self._copy(hold=True, indices=added)
            self.indices = sorted([*self.indices, *added])

    def _copy(self, hold: bool, indices: Sequence[int] | None = None) -> None:
        chosen = self.indices if indices is None else indices
        params = {i: self.trainables.params[i] for i in chosen}
        for i, p in params.items():
            kept = self.held.get(i)
            if kept is None or not same_kind(kept, p):
                with torch.inference_mode(False):
                    self.held[i] = torch.empty_like(p, requires_grad=False)
        there, here = list(params.values()), [self.held[i] for i in params]
        if here:
            torch._foreach_copy_(here if hold else there, there if hold else here)
