"""How the points of a step are evaluated: one by one, from a log, or all in one forward."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from .engine import Engine
from .moves import Point
from .parallel import BatchedCopies
from .perturbation import Directions

EVALUATIONS = ("loop", "batched")

Run = Callable[[], float]
"""Runs the closure; its value."""


class Evaluator(ABC):
    """`evaluator(run, points)` yields the loss at each point, in order."""

    @abstractmethod
    def __call__(self, run: Run, points: Sequence[Point]) -> Iterator[float]:
        """The losses; weights may be left displaced, as the engine knows."""


class Loop(Evaluator):
    """One forward a point, the weights moved there."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __call__(self, run: Run, points: Sequence[Point]) -> Iterator[float]:
        for point in points:
            yield self.engine.evaluate(run, point)


class Replay(Evaluator):
    """No forward: the losses of a log, the weights moved as they were."""

    def __init__(self, engine: Engine, losses: Sequence[float], step: int) -> None:
        self.engine, self.step = engine, step
        self.left = deque(float(loss) for loss in losses)

    def __call__(self, run: Run, points: Sequence[Point]) -> Iterator[float]:
        for point in points:
            self.engine.revisit(point)
            if not self.left:
                raise ValueError(f"the log of step {self.step} has too few losses")
            yield self.left.popleft()

    def done(self) -> None:
        """At the end of the step: refuses a log with losses that were not used."""
        if self.left:
            raise ValueError(f"the log of step {self.step} has {len(self.left)} losses too many")


class Batched(Evaluator):
    """One forward of `module` for all points: every trained module applies its perturbed copies to row
    blocks, and no weight is displaced."""

    def __init__(
        self, engine: Engine, module: weakref.ref[nn.Module], directions: Directions, max_parallel: int | None
    ) -> None:
        self.engine, self.module = engine, module
        self.directions, self.max_parallel = directions, max_parallel
        self._copies()  # says now what cannot have copies

    def __call__(self, run: Run, points: Sequence[Point]) -> Iterator[float]:
        self.engine.land()  # copies are made from the weights in memory
        copies = self._copies()
        with copies.at(points):
            for index in range(len(points)):
                yield copies.run(run, index)

    def _copies(self) -> BatchedCopies:
        module = self.module()
        if module is None:
            raise RuntimeError("the module this optimizer was given is gone")
        return BatchedCopies(module, self.engine.trainables, self.directions, max_parallel=self.max_parallel)
