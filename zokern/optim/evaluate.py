"""How the points of a step are evaluated: one by one, from a log, or all in one forward."""

from __future__ import annotations

import math
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from .engine import Engine
from .moves import Point
from .parallel import BatchedCopies
from .perturbation import Directions

EVALUATIONS = ("loop", "batched")

FARTHER = 32.0
"""How much farther than a step's the points are at which batched losses are compared with the loop's."""

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
    blocks, and no weight is displaced. At first use the losses are compared with those of the loop."""

    def __init__(
        self, engine: Engine, module: weakref.ref[nn.Module], directions: Directions, max_parallel: int | None
    ) -> None:
        self.engine, self.module = engine, module
        self.directions, self.max_parallel = directions, max_parallel
        self._compared = False
        self._copies()  # says now what cannot have copies

    def __call__(self, run: Run, points: Sequence[Point]) -> Iterator[float]:
        self.engine.land()  # copies are made from the weights in memory
        if not self._compared:
            self._compare(run, points)
        yield from self._losses(run, points)

    def _losses(self, run: Run, points: Sequence[Point]) -> Iterator[float]:
        copies = self._copies()
        with copies.at(points):
            for index in range(len(points)):
                yield copies.run(run, index)

    def _compare(self, run: Run, points: Sequence[Point]) -> None:
        """Refuses a model whose rows are not each copy's own, which no shape shows.

        The losses are those of points `FARTHER` away: there, what one copy does to the rows of another is
        larger than what the order of summation does.
        """
        far = [[{along: FARTHER * x for along, x in terms.items()} for terms in point] for point in points]
        batched = list(self._losses(run, far))
        alone = [self.engine.evaluate(run, point) for point in far]
        self.engine.land()
        allowed = self._rounding() * max(map(abs, alone), default=0.0)
        if all(math.isfinite(loss) for loss in (*batched, *alone)):
            if any(abs(b - a) > allowed for b, a in zip(batched, alone)):
                raise RuntimeError(
                    f"evaluation='batched' gives other losses than one forward a point: {_brief(batched)} and "
                    f"{_brief(alone)} at first use. Inputs and outputs must have the batch first, and rows "
                    f"must not meet (statistics over the batch, negatives from the batch, dropout); "
                    f"evaluation='loop' takes any model"
                )
            self._compared = True

    def _rounding(self) -> float:
        """How far losses of two orders of summation may be apart, relative to the loss."""
        module = self.module()
        dtypes = {p.dtype for p in module.parameters()} if module is not None else set()
        for device in {p.device.type for p in self.engine.trainables.params}:
            if torch.is_autocast_enabled(device):
                dtypes.add(torch.get_autocast_dtype(device))
        coarsest = max((torch.finfo(d).eps for d in dtypes if d.is_floating_point), default=0.0)
        return max(1e-4, 4 * coarsest)

    def _copies(self) -> BatchedCopies:
        module = self.module()
        if module is None:
            raise RuntimeError("the module this optimizer was given is gone")
        return BatchedCopies(module, self.engine.trainables, self.directions, max_parallel=self.max_parallel)


def _brief(losses: Sequence[float]) -> str:
    shown = ", ".join(f"{loss:.6g}" for loss in losses[:4])
    return f"[{shown}{', ...' if len(losses) > 4 else ''}]"
