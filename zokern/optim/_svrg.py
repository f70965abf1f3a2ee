"""What variance-reduced methods share: a snapshot of the weights and the moves made since."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ._groups import check_choice, check_number
from ._steps import Closure
from .base import ZerothOrderOptimizer
from .engine import ApplySeeds, Batch
from .restore_exact import takes_hooks

Grads = dict[int, list[float]]
"""Seed to coefficient of its z, one a param group."""

SNAPSHOT = "snapshot"
"""A direction: `{SNAPSHOT: 1.0, seed: eps}` names the point snapshot + eps z(seed)."""


def times(grads: Grads, rates: list[float]) -> Grads:
    """The moves of a descent along `grads`."""
    return {seed: [-r * g for r, g in zip(rates, values)] for seed, values in grads.items()}


@dataclass(frozen=True)
class _FromSnapshot:
    """The usual pass; a point named with `SNAPSHOT` starts from the copy in place of the weights."""

    usual: ApplySeeds
    copies: dict[int, Tensor]

    def __call__(self, batch: Batch) -> None:
        if SNAPSHOT in batch.terms:
            terms = {key: value for key, value in batch.terms.items() if key != SNAPSHOT}
            batch = replace(batch, source=[self.copies[i] for i in batch.indices], terms=terms)
        self.usual(batch)


class SVRG(ZerothOrderOptimizer):
    """What MeZO-SVRG and ZO-SVRG share: a snapshot of the weights, its full-batch estimate, and the moves
    made since. A subclass writes the two kinds of step."""

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        defaults: dict[str, Any],
        *,
        interval: int,
        snapshot: str,
        distribution: str,
        restore: str,
        module: nn.Module | None,
        **options: Any,
    ) -> None:
        check_number("interval", interval, 1, integer=True)
        check_choice("snapshot", snapshot, ("replay", "copy"))
        self.interval = interval
        self.snapshot = snapshot
        if isinstance(params, nn.Module):
            module = params
        self._copies: dict[int, Tensor] = {}
        if snapshot == "copy":
            if restore == "inplace":
                raise ValueError(
                    "snapshot='copy' visits the copy without moving it, and so needs "
                    "restore='exact' or 'snapshot', got 'inplace'"
                )
            if restore == "auto":
                restore = "exact" if module is not None and takes_hooks(module) else "snapshot"
            options["apply"] = _FromSnapshot(ApplySeeds(distribution), self._copies)
        self._since: int | None = None
        self._full: Grads = {}
        self._moved: Grads = {}
        self._owed: list[float] = []
        super().__init__(
            params,
            defaults,
            distribution=distribution,
            restore=restore,
            module=module,
            **options,
        )

    @property
    def next_is_full(self) -> bool:
        """Whether the next step is a full one: it renews the snapshot and its full-batch estimate.

        That is every `interval`-th step, from the first; one that was skipped is made up for."""
        return self._since is None or self._since >= self.interval

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; the next step is then a full one."""
        super().add_param_group(param_group)
        self._since = None
        self._owed.append(1.0)

    @abstractmethod
    def step(self, closure: Closure) -> float:  # type: ignore[override]
        """One step."""

    # -- inside -------------------------------------------------------------------------------

    def _start_interval(self, full: Grads, terms: Grads, rates: list[float]) -> None:
        """Takes the snapshot, keeps its estimate and commits the full step."""
        if self.skips(*(value for values in terms.values() for value in values)):
            return
        if self.snapshot == "copy":
            self._copy()
        self._since = 0
        self._full, self._moved = full, {}
        self._move(terms, rates)

    def _move(self, terms: Grads, rates: list[float]) -> None:
        """Commits a move and notes it, for the walk back to the snapshot.

        Decay of an interval's steps is applied in its last one: until then weights and snapshot
        differ by a sum of directions alone.
        """
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

    def _to_snapshot(self) -> dict[Any, Any]:
        """The displacement that leads from the committed weights to the snapshot."""
        if self.snapshot == "copy":
            return {SNAPSHOT: 1.0}
        return {seed: [-v for v in values] for seed, values in self._moved.items()}

    def _difference_at_snapshot(self, closure: Closure, seed: int) -> float:
        """(loss(snapshot + eps z) - loss(snapshot - eps z)) / 2."""
        eps = [group["eps"] for group in self.param_groups]
        there = self._to_snapshot()
        plus = self.evaluate(closure, {seed: eps, **there})
        minus = self.evaluate(closure, {seed: [-e for e in eps], **there})
        return (plus - minus) / 2

    def _copy(self) -> None:
        self.engine.land()
        for i, p in enumerate(self.trainables):
            if "snapshot" not in self.state[p]:
                with torch.inference_mode(False):
                    self.state[p]["snapshot"] = torch.empty_like(p, requires_grad=False)
            self._copies[i] = self.state[p]["snapshot"]
        if self._copies:
            torch._foreach_copy_(list(self._copies.values()), self.trainables)

    def _method_state(self) -> dict[str, Any]:
        return {
            "since": self._since,
            "full": dict(self._full),
            "moved": dict(self._moved),
            "owed": list(self._owed),
            "snapshot": self.snapshot,
        }

    def _load_method_state(self, state: dict[str, Any]) -> None:
        if state["snapshot"] != self.snapshot:
            raise ValueError(
                f"state_dict was saved with snapshot={state['snapshot']!r}, "
                f"this optimizer has {self.snapshot!r}"
            )
        self._since, self._owed = state["since"], list(state["owed"])
        self._full, self._moved = dict(state["full"]), dict(state["moved"])
        self._copies.clear()
        if self.snapshot == "copy" and self._since is not None:
            self._copies.update((i, self.state[p]["snapshot"]) for i, p in enumerate(self.trainables))
