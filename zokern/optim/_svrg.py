"""What variance-reduced methods share: earlier weights, the anchor, and the moves made since."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..call.checks import check_choice, check_integer
from .base import Combination, ZerothOrderOptimizer
from .engine import Trainables
from .moves import Pass, uninterrupted
from .options import Params, renamed
from .perturbation import Directions
from .record import Grads
from .restore import Needs

ANCHOR = "anchor"
"""A direction: `{ANCHOR: 1.0, seed: eps}` names the point anchor + eps z(seed)."""


def times(grads: Grads, rates: list[float]) -> Grads:
    """The moves of a descent along `grads`."""
    return {seed: [-r * g for r, g in zip(rates, values)] for seed, values in grads.items()}


def check_same(name: str, saved: object, own: object) -> None:
    """Refuses a state that was saved with another option."""
    if saved != own:
        raise ValueError(f"state_dict was saved with {name}={saved!r}, this optimizer has {own!r}")


class _FromAnchor(Directions):
    """The passes of other directions; a point named with `ANCHOR` starts from the copy in place of the
    weights."""

    def __init__(self, of: Directions, copies: dict[int, Tensor]) -> None:
        super().__init__()
        self.of, self.copies = of, copies

    def apply(self, work: Pass) -> None:
        if ANCHOR in work.terms:
            terms = {key: value for key, value in work.terms.items() if key != ANCHOR}
            work = dataclasses.replace(work, source=[self.copies[i] for i in work.indices], terms=terms)
        self.of.apply(work)


class SVRG(ZerothOrderOptimizer):
    """The anchor, its full-batch estimate, and the moves made since; a subclass writes the two kinds of step."""

    def __init__(
        self,
        params: Params,
        defaults: dict[str, Any],
        *,
        eps: float,
        interval: int = 2,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        renamed(options, type(self).__name__, "snapshot", "anchor")
        anchor = options.pop("anchor", "replay")
        interval = check_integer("interval", interval, 1)
        check_choice("anchor", anchor, ("replay", "copy"))
        self.interval = interval
        self.anchor = anchor
        self._copies: dict[int, Tensor] = {}
        self._since: int | None = None
        self._full: Grads = {}
        self._moved: Grads = {}
        self._owed: list[float] = []
        super().__init__(params, {**defaults, "weight_decay": weight_decay}, eps=eps, **options)

    @property
    def next_is_full(self) -> bool:
        """Whether the next step renews the anchor and its full-batch estimate, as every `interval`-th does,
        from the first; one that was skipped is made up for."""
        return self._since is None or self._since >= self.interval

    keeps_masks = True
    """An interval's points lie around two places, and its moves are retraced."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; the next step is then a full one."""
        super().add_param_group(param_group)
        self._since = None
        self._owed.append(1.0)

    @property
    def turn(self) -> int:
        """The number of the interval: blocks take turns with it."""
        return self.steps // self.interval

    def begin(self) -> None:
        """What the directions depend on is found anew at each interval, and holds for all of it."""
        if self.next_is_full:
            super().begin()

    # -- inside -------------------------------------------------------------------------------

    def _needs(self) -> Needs:
        return dataclasses.replace(super()._needs(), anchor=self.anchor == "copy")

    def _prepare(self, trainables: Trainables) -> Directions:
        directions = super()._prepare(trainables)
        return _FromAnchor(directions, self._copies) if self.anchor == "copy" else directions

    def _start_interval(self, full: Grads, rates: list[float]) -> None:
        """Takes the anchor, keeps its estimate and commits the full step."""
        terms = times(full, rates)
        if self.skips(*(value for values in terms.values() for value in values)):
            return
        with uninterrupted():
            if self.anchor == "copy":
                self.engine.land()
                copies = ((i, self.buffer(p, "anchor", p.dtype)) for i, p in enumerate(self.trainables))
                self._copies.update(copies)
                torch._foreach_copy_(list(self._copies.values()), self.trainables)
            self._since = 0
            self._full, self._moved = full, {}
            self._move(terms, rates)

    def _move(self, terms: Grads, rates: list[float]) -> None:
        """Commits a move and notes it, for the walk back to the anchor.

        Decay of an interval's steps is applied in its last one: until then weights and anchor differ
        by a sum of directions alone.
        """
        with uninterrupted():
            self._move_and_note(terms, rates)

    def _move_and_note(self, terms: Grads, rates: list[float]) -> None:
        assert self._since is not None
        self._since += 1
        owed = [
            before * (1.0 - rate * group["weight_decay"])
            for before, rate, group in zip(self._owed, rates, self.param_groups)
        ]
        last = self._since >= self.interval
        if not self.commit(terms, owed if last else 1.0):
            return
        self._owed = [1.0] * len(owed) if last else owed
        for seed, values in terms.items():
            before = self._moved.get(seed, [0.0] * len(values))
            self._moved[seed] = [b + v for b, v in zip(before, values)]

    def _to_anchor(self) -> Combination:
        """The displacement that leads from the committed weights to the anchor."""
        if self.anchor == "copy":
            return {ANCHOR: 1.0}
        return {along: [-v for v in values] for along, values in self._moved.items()}

    def _method_state(self) -> dict[str, Any]:
        plain = self.directions.to_plain
        return {
            "since": self._since,
            "full": {plain(d): values for d, values in self._full.items()},
            "moved": {plain(d): values for d, values in self._moved.items()},
            "owed": list(self._owed),
            "anchor": self.anchor,
            # they hold for an interval, so a run that is resumed within one needs them
            "masks": dict(self.directions.masks) if self.directions.draws_masks else {},
        }

    def _load_method_state(self, state: Mapping[str, Any]) -> None:
        saved = state["anchor"] if "anchor" in state else state["snapshot"]  # its name in version 0.1
        check_same("anchor", saved, self.anchor)
        known = self.directions.from_plain
        self._since, self._owed = state["since"], list(state["owed"])
        self._full = {known(d): values for d, values in state["full"].items()}
        self._moved = {known(d): values for d, values in state["moved"].items()}
        self._copies.clear()
        for i, p in enumerate(self.trainables):
            own = self.state[p]
            if "snapshot" in own:
                own["anchor"] = own.pop("snapshot")
            if self.anchor == "copy" and self._since is not None:
                self._copies[i] = own["anchor"]
        for i, mask in state.get("masks", {}).items():
            self.directions.masks[i] = mask.to(self.trainables[i].device, copy=True)
