"""The variance-reduced methods as rows of the battery, and their formulas in plain float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

import zokern
from tests.optim.estimates import Loss, estimate
from tests.optim.problems import LR, Method, Oracle
from zokern.optim import ZOSVRG, MeZOSVRG


class SVRGOnOneBatch(MeZOSVRG):
    """MeZO-SVRG whose full batch is the closure's, at a quarter of the rate between full steps."""

    def __init__(self, params: Any, lr: float, **options: Any) -> None:
        if isinstance(params, list) and isinstance(params[0], dict):
            params = [{**g, "lr_minibatch": g.get("lr", lr) / 4} for g in params]
        super().__init__(params, lr, lr_minibatch=lr / 4, **options)

    def step(self, closure: Any) -> float:  # type: ignore[override]
        return super().step(closure, full_closure=closure)


class ZOSVRGOnOneLoss(ZOSVRG):
    """ZO-SVRG whose samples all have the closure's loss: two in the full batch, one in the others."""

    def __init__(self, params: Any, lr: float, **options: Any) -> None:
        super().__init__(params, lr, num_samples=2, **options)

    def step(self, closure: Any) -> float:  # type: ignore[override]
        return super().step(lambda sample: closure(), samples=[1])


@dataclass
class SVRGOracle(Oracle):
    anchor: list[Tensor] = field(default_factory=list)
    full: list[Tensor] = field(default_factory=list)
    owed: float = 1.0
    slow: ClassVar[float] = LR / 4  # between full steps

    masks: list[Tensor] | None = None

    def queries(self, full: bool) -> int:
        return int(self.options.get("num_queries", 1))

    def choose(self, weights: list[Tensor], t: int) -> list[Tensor] | None:
        """The elements that move in an interval; None: all."""
        return None

    def step(self, weights: list[Tensor], loss: Loss, t: int) -> float:
        interval, decay = self.options["interval"], self.options.get("weight_decay", 0.0)
        seeds = [zokern.derive_seed(0, t, query) for query in range(self.queries(t % interval == 0))]
        if t % interval == 0:
            self.masks = self.choose(weights, t)
        mean, grad = estimate(weights, loss, seeds, self.masks)
        if t % interval == 0:
            self.anchor = [w.clone() for w in weights]
            self.full = grad
            rate, direction = LR, grad
        else:
            _, there = estimate(self.anchor, loss, seeds, self.masks)
            rate = self.slow
            direction = [a - b + c for a, b, c in zip(grad, there, self.full)]
        self.owed *= 1 - rate * decay
        for i, (w, d) in enumerate(zip(weights, direction)):
            if t % interval == interval - 1:
                w.mul_(1 - (1 - self.owed) * (1.0 if self.masks is None else self.masks[i]))
            w.sub_(rate * d)
        if t % interval == interval - 1:
            self.owed = 1.0
        return mean


class ZOSVRGOracle(SVRGOracle):
    slow = LR

    def queries(self, full: bool) -> int:
        return 2 if full else 1


@dataclass(frozen=True)
class SVRGMethod(Method):
    oracle: type[Oracle] = SVRGOracle

    def log(self, step: int, difference: float) -> list[float]:
        here = super().log(step, difference)
        if step % self.options["interval"] == 0:
            return here
        return [*here, *(x for pair in zip(here[::2], here[1::2]) for x in (pair[1], pair[1]))]


@dataclass(frozen=True)
class ZOSVRGMethod(SVRGMethod):
    oracle: type[Oracle] = ZOSVRGOracle

    def log(self, step: int, difference: float) -> list[float]:
        here = super().log(step, difference)
        return [*here, *here] if step % self.options["interval"] == 0 else here
