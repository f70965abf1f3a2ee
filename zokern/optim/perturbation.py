"""What z is: the perturbations of an optimizer, and full noise, the usual one.

A `Perturbation` is a choice, an immutable value that any number of optimizers may be given. Each binds
it to its own trainables as `Directions`, which keep what the choice needs (thresholds, masks, blocks in
turn, a momentum) and carry out the optimizer's passes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops import perturb_
from .engine import Trainables
from .moves import Direction, Pass


@dataclass(frozen=True)
class StepStart:
    """What directions are told before a step's first move."""

    step: int
    turn: int  # counts the choices: the number of the step, or of the interval where one holds for several
    param_groups: Sequence[Mapping[str, Any]]
    keeps_masks: bool  # masks are to be stored: not all passes start from the committed weights
    flush: Callable[[], None]  # makes the weights in memory the committed ones
    again: bool = False  # the last step was cut short and undone, and no weight was written since


class Directions(ABC):
    """A perturbation bound to an optimizer's trainables."""

    whole = False
    """Whether each direction is z of its seed over the whole of the tensors that it moves: what the
    rules that are fused with the noise take."""

    partial = False
    """Whether a direction may leave some of the trainables alone."""

    committed = False
    """Whether passes look at the weights they start from, which are to be the committed ones."""

    masks: dict[int, Tensor]
    """Ordinal of a trainable to the stored mask of the elements that move; others move as a whole."""

    draws_masks = False
    """Whether masks are found from the weights; those that a user gives are no state."""

    def __init__(self) -> None:
        self.masks = {}

    def attach(self, trainables: Trainables) -> None:  # noqa: B027
        """Learns the trainables, at first and when there are more; refuses those that the choice does not
        fit (TypeError, ValueError)."""

    def begin(self, start: StepStart) -> None:  # noqa: B027
        """Before a step's first move: brings up to date what depends on the step or the weights."""

    def direction(self, seed: int) -> Direction:
        """What a step perturbs along for a query's seed."""
        return seed

    def moves(self, direction: Direction, i: int) -> bool:
        """Whether the direction moves any of the trainable `i`."""
        return True

    @abstractmethod
    def apply(self, work: Pass) -> None:
        """Carries out a pass."""

    def to_plain(self, direction: Direction) -> Any:
        """A direction as plain Python, for a saved state: a number, or tuples of numbers."""
        return direction

    def from_plain(self, plain: Any) -> Direction:
        """The direction that `to_plain` gave."""
        return plain  # type: ignore[no-any-return]

    def state(self) -> dict[str, Any]:
        """What a continued run has to know, as plain Python."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Takes over what `state` returned."""


class Perturbation(ABC):
    """A choice of z; `MeZO(model, perturbation=...)`."""

    @property
    def reads_momentum(self) -> bool:
        """Whether z is drawn around a momentum that the method has to write."""
        return False

    @abstractmethod
    def bind(self, distribution: str) -> Directions:
        """Directions for one optimizer, with noise of this distribution."""


@dataclass(frozen=True)
class FullNoise(Perturbation):
    """z of a seed on every element of every trainable: the default.

    Source: Malladi et al. 2023 (arXiv:2305.17333), Definition 1.
    """

    def bind(self, distribution: str) -> Directions:
        return FullDirections(distribution)


class FullDirections(Directions):
    """Every direction is an integer seed; a pass is one `zokern.perturb_` call."""

    whole = True

    def __init__(self, distribution: str) -> None:
        super().__init__()
        self.distribution = distribution

    def apply(self, work: Pass) -> None:
        if not work.is_identity():
            work.run(perturb_, distribution=self.distribution)


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """The dtype of what is computed for weights of this one."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def dense_estimate(
    directions: Directions, i: int, like: Tensor, group: int, grads: Mapping[Direction, float]
) -> Tensor:
    """sum grads * z of one trainable, 0 where nothing moves: for rules that are not fused with the noise."""
    dense = [torch.zeros_like(like, dtype=at_least_fp32(like.dtype), requires_grad=False)]
    directions.apply(Pass([i], group, dense, dense, 1.0, dict(grads)))
    return dense[0]
