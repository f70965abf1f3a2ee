"""Rows of the battery beyond MeZO: each method's options, and its formulas in plain float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

import zokern
from tests.optim.problems import EPS, LR, METHODS, Method, Oracle
from zokern.optim import AdaZeta, MeZOSVRG

Loss = Callable[[Sequence[Tensor]], float]


class SVRGOnOneBatch(MeZOSVRG):
    """MeZO-SVRG whose full batch is the closure's, at a quarter of the rate between full steps."""

    def __init__(self, params: Any, lr: float, **options: Any) -> None:
        if isinstance(params, list) and isinstance(params[0], dict):
            params = [{**g, "lr_minibatch": g.get("lr", lr) / 4} for g in params]
        super().__init__(params, lr, lr_minibatch=lr / 4, **options)

    def step(self, closure: Any) -> float:  # type: ignore[override]
        return super().step(closure, full_closure=closure)


@dataclass
class SVRGOracle(Oracle):
    snapshot: list[Tensor] = field(default_factory=list)
    full: list[Tensor] = field(default_factory=list)
    owed: float = 1.0

    def step(self, weights: list[Tensor], loss: Loss, t: int) -> float:
        interval, decay = self.options["interval"], self.options.get("weight_decay", 0.0)
        seeds = [zokern.derive_seed(0, t, query) for query in range(self.options.get("num_queries", 1))]
        mean, grad = estimate(weights, loss, seeds)
        if t % interval == 0:
            self.snapshot = [w.clone() for w in weights]
            self.full = grad
            rate, direction = LR, grad
        else:
            _, there = estimate(self.snapshot, loss, seeds)
            rate = LR / 4
            direction = [a - b + c for a, b, c in zip(grad, there, self.full)]
        self.owed *= 1 - rate * decay
        for w, d in zip(weights, direction):
            if t % interval == interval - 1:
                w.mul_(self.owed)
            w.sub_(rate * d)
        if t % interval == interval - 1:
            self.owed = 1.0
        return mean


def estimate(weights: Sequence[Tensor], loss: Loss, seeds: Sequence[int]) -> tuple[float, list[Tensor]]:
    """Mean loss and mean two-sided estimate over the seeds."""
    total, grad = 0.0, [w * 0 for w in weights]
    for seed in seeds:
        z = [zokern.normal(w.shape, seed, stream=i).double() for i, w in enumerate(weights)]
        plus = loss([w + EPS * d for w, d in zip(weights, z)])
        minus = loss([w - EPS * d for w, d in zip(weights, z)])
        total += (plus + minus) / (2 * len(seeds))
        g = (plus - minus) / (2 * EPS * len(seeds))
        grad = [a + g * d for a, d in zip(grad, z)]
    return total, grad


@dataclass(frozen=True)
class SVRGMethod(Method):
    oracle: type[Oracle] = SVRGOracle

    def log(self, step: int, difference: float) -> list[float]:
        here = super().log(step, difference)
        if step % self.options["interval"] == 0:
            return here
        return [*here, *(x for pair in zip(here[::2], here[1::2]) for x in (pair[1], pair[1]))]


class AdaZetaOfQueries(AdaZeta):
    """AdaZeta with its fixed number of queries under the name that the oracle knows."""

    def __init__(self, params: Any, lr: float, *, num_queries: int, **options: Any) -> None:
        super().__init__(params, lr, schedule=num_queries, **options)


ROWS: dict[str, Method] = {
    **METHODS,
    "AdaZeta": Method(
        AdaZetaOfQueries, {"num_queries": 3, "weight_decay": 0.1}, METHODS["MeZO-3-queries"].golden
    ),
    "SVRG": SVRGMethod(SVRGOnOneBatch, {"interval": 3}, (50.71455, 57.63186, 63.67528, 71.13995), steps=600),
    "SVRG-2-queries": SVRGMethod(
        SVRGOnOneBatch,
        {"interval": 2, "num_queries": 2, "weight_decay": 0.1},
        (50.71442, 49.29082, 50.13253, 49.94329),
    ),
}
