"""What a step leaves behind, and what a closure gives it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .moves import Direction

Closure = Callable[[], Any]

Grads = dict[Direction, list[float]]
"""Direction to projected gradient, one a param group."""


@dataclass(frozen=True)
class Estimate:
    """A simultaneous-perturbation estimate of the gradient: sum over directions of grads * z."""

    loss: float
    """The loss to report: two-sided the mean of all evaluations, one-sided the base loss."""
    grads: Grads
    """Projected gradients, divided by the number of directions."""

    def minus(self, other: Estimate) -> Estimate:
        """The difference, along the same directions; the loss is this one's."""
        pairs = {along: zip(values, other.grads[along]) for along, values in self.grads.items()}
        return Estimate(self.loss, {along: [a - b for a, b in pair] for along, pair in pairs.items()})

    @property
    def numbers(self) -> list[float]:
        """All projected gradients, in one list."""
        return [value for values in self.grads.values() for value in values]


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
    commits: list[tuple[list[float], dict[Direction, list[float]]]] = field(default_factory=list)
    skipped: bool = False


def no_forward() -> float:
    """The closure of a replayed step."""
    raise AssertionError("a replayed step runs no closure")


def as_scalar(value: Any) -> float:
    """A closure's value, of one element, as a float."""
    shape = getattr(value, "shape", ())
    if math.prod(shape) != 1:
        raise ValueError(f"closure must return a scalar loss, got shape {tuple(shape)}")
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError):
        raise TypeError(f"closure must return a scalar loss, got {value!r}") from None
