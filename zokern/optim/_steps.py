"""What every step has, whatever the method: its record, its closure's value, its clean end."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from .engine import Key

if TYPE_CHECKING:
    from .base import ZerothOrderOptimizer

Closure = Callable[[], Any]


@dataclass
class StepRecord:
    """What the last step saw and did: for loggers and trajectories.

    Attributes:
        step: number of the step, from 0.
        losses: value of each evaluation, in order; `replay_step(losses)` repeats the step.
        projected_grads: seed to projected gradient (of the first param group).
        commits: what was committed: (decay of each group, {direction: coefficient of each group}).
        skipped: whether a non-finite value made the step leave the weights as they were.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    projected_grads: dict[int, float] = field(default_factory=dict)
    commits: list[tuple[list[float], dict[Key, list[float]]]] = field(default_factory=list)
    skipped: bool = False


def whole_step(step: Callable[..., float]) -> Callable[..., float]:
    """A subclass's `step`, run without gradients, recorded, timed, landed at its end (with `lazy`
    left pending) and undone when anything in it raises."""

    @functools.wraps(step)
    def whole(self: ZerothOrderOptimizer, closure: Closure | None = None, *args: Any, **kwargs: Any) -> float:
        if not callable(closure):
            raise TypeError(
                f"step needs a closure that returns the loss, got {closure!r}: a zeroth-order step "
                f"is made of losses"
            )
        engine = self.engine
        if engine.busy:  # called by a subclass's own step
            return step(self, closure, *args, **kwargs)
        started, inside = time.perf_counter(), self._seconds_in_closure
        self.last = StepRecord(step=self._steps)
        engine.hooked = False
        engine.busy += 1
        try:
            with torch.no_grad():
                try:
                    loss = step(self, closure, *args, **kwargs)
                except BaseException:
                    engine.land()
                    raise
                if not (self.lazy and engine.defers and self._may_stay_pending()):
                    engine.land()
        finally:
            engine.busy -= 1
            spent = time.perf_counter() - started - (self._seconds_in_closure - inside)
            self.seconds_outside_closure += spent
        self._steps += 1
        return loss

    return whole


def no_forward() -> float:
    """The closure of a replayed step."""
    raise AssertionError("a replayed step runs no closure")


def as_scalar(value: Any) -> float:
    """A closure's value as a float.

    Raises:
        TypeError: it is no number.
        ValueError: it has more or less than one element; the message has its shape.
    """
    shape = getattr(value, "shape", ())
    if math.prod(shape) != 1:
        raise ValueError(f"closure must return a scalar loss, got shape {tuple(shape)}")
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError):
        raise TypeError(f"closure must return a scalar loss, got {value!r}") from None
