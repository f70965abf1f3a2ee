r"""What a move of the weights consists of: directions, terms, the affine map, the pass.

Weights in memory are related to the committed ones by an affine map a param group,

    committed = decay * memory + sum_k terms[k] * z(k).

Coefficients are merged as Python floats (float64) and rounded to fp32 once, by the op.
"""

from __future__ import annotations

import _signal  # `signal` without its enums, which take ten times as long
import contextlib
import signal
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from torch import Tensor

Kind = TypeVar("Kind", bound=Hashable)

Direction = Hashable
"""What names a z: its integer seed, or a hashable with a `seed` that the perturbation in use reads."""

Terms = dict[Direction, float]
"""A short combination of directions."""

Point = list[Terms]
"""A point that a method visits, as its displacement from the committed weights: one a param group."""


def seed_of(direction: Direction) -> int:
    """The seed that a direction is drawn with."""
    seed = direction if isinstance(direction, int) else getattr(direction, "seed", None)
    if not isinstance(seed, int):
        raise TypeError(f"a direction must be a seed or have one, got {direction!r}")
    return seed


@dataclass(frozen=True)
class Affine:
    """`decay * x + sum terms[k] * z(k)`, without terms that are zero.

    `rounding_seed` is set where the map holds a committed update, which is what stochastic rounding is
    for: its bits are drawn with this seed. The freshest direction gives it, so that no two updates
    round with the same bits.
    """

    decay: float = 1.0
    terms: Terms = field(default_factory=dict)
    rounding_seed: int | None = None

    def is_identity(self) -> bool:
        return self.decay == 1.0 and not any(self.terms.values())

    def plus(self, offset: Terms) -> Affine:
        """Displaced further by `offset`."""
        fresh = self.rounding_seed if self.rounding_seed is None or not offset else _first_seed(offset)
        return Affine(self.decay, _add(offset, self.terms), fresh)

    def then(self, decay: float, terms: Terms) -> Affine:
        """Followed by the update `x <- decay * x + terms`."""
        scaled = {key: decay * value for key, value in self.terms.items()}
        fresh = _first_seed(terms) if terms else self.rounding_seed
        if fresh is None and scaled:
            fresh = _first_seed(scaled)
        return Affine(decay * self.decay, _add(terms, scaled), fresh)

    def key(self) -> tuple[object, ...]:
        """Equal for maps that one pass can carry out together."""
        return (self.decay, tuple(self.terms.items()), self.rounding_seed)


IDENTITY = Affine()


def _first_seed(terms: Terms) -> int:
    return seed_of(next(iter(terms)))


def _add(first: Terms, second: Terms) -> Terms:
    """Sum, in the order of `first`, then of what only `second` has, without zeros."""
    total = dict(first)
    for key, value in second.items():
        total[key] = total.get(key, 0.0) + value
    return {key: value for key, value in total.items() if value != 0.0}


@dataclass(frozen=True)
class Pass:
    """One pass over memory: `target <- decay * source + sum terms[k] * z(k)`, tensor by tensor.

    Args:
        indices: ordinals of the trainables, which are also their streams.
        group: param group (the first, where groups that move alike were merged).
        source, target: read and written, on one device; `target is source` in place.
        decay, terms: factor of the source, and direction to coefficient.
        rounding, rounding_seed: "nearest", or "stochastic" with the bits of this seed.
    """

    indices: list[int]
    group: int
    source: list[Tensor]
    target: list[Tensor]
    decay: float
    terms: Terms
    rounding: str = "nearest"
    rounding_seed: int | None = None

    @property
    def out(self) -> list[Tensor] | None:
        """`target` as the ops take it: None in place."""
        return None if self.target is self.source else self.target

    def then(self, decay: float) -> Pass:
        """The same, followed by a decay."""
        terms = {key: decay * value for key, value in self.terms.items()}
        return replace(self, decay=decay * self.decay, terms=terms)

    def part(self, chosen: Sequence[int]) -> Pass:
        """The same for some of the tensors (positions in the pass)."""
        source = [self.source[n] for n in chosen]
        target = source if self.target is self.source else [self.target[n] for n in chosen]
        return replace(self, indices=[self.indices[n] for n in chosen], source=source, target=target)

    def split(self, kinds: Iterable[Kind]) -> dict[Kind, Pass]:
        """The parts that are alike, by the kind of every tensor."""
        alike: dict[Kind, list[int]] = {}
        for n, kind in enumerate(kinds):
            alike.setdefault(kind, []).append(n)
        return {kind: self.part(chosen) if len(alike) > 1 else self for kind, chosen in alike.items()}

    def is_identity(self) -> bool:
        return self.target is self.source and self.decay == 1.0 and not any(self.terms.values())

    def run(self, op: Callable[..., object], **options: Any) -> None:
        """Calls `perturb_` or an op of its kind, with options of its own."""
        scales: dict[int, float] = {}
        for direction, scale in self.terms.items():
            seed = seed_of(direction)
            scales[seed] = scales.get(seed, 0.0) + scale
        rounding = "nearest"
        if self.rounding != "nearest" and self.rounding_seed is not None:
            rounding, first = self.rounding, self.rounding_seed  # bits are drawn with the first seed
            scales = {first: scales.pop(first, 0.0), **scales}
        options.update(decay=self.decay, streams=self.indices, rounding=rounding, out=self.out)
        op(self.source, list(scales), list(scales.values()), **options)


Apply = Callable[[Pass], None]
"""Carries out one pass."""


_UNSTOPPABLE = {getattr(signal, name, None) for name in ("SIGKILL", "SIGSTOP")}
_SIGNALS = sorted(map(int, signal.valid_signals() - _UNSTOPPABLE))


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds the handlers of all signals (Ctrl-C, timers) back until the block is done: a pass and the note
    of it stay together, whatever a handler raises. Handlers run in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    held: list[tuple[int, Any]] = []
    try:
        for number in _SIGNALS:
            handler = _signal.getsignal(number)
            if callable(handler):
                held.append((number, handler))
                _signal.signal(number, lambda number, frame: caught.append(number))
        yield
    finally:
        _let_go(held, caught)


def _let_go(held: list[tuple[int, Any]], caught: list[int]) -> None:
    """Sets all handlers again and delivers what was caught, even if one of them raises meanwhile."""
    try:
        while held:
            _signal.signal(*held[-1])
            held.pop()
        while caught:
            signal.raise_signal(caught.pop(0))
    finally:
        if held or caught:
            _let_go(held, caught)
