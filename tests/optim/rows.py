"""Rows of the battery beyond MeZO: each method's options, and its formulas in plain float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

import zokern
from tests.optim.estimates import Loss, mean_estimate
from tests.optim.problems import EPS, LR, METHODS, Method, Oracle
from tests.optim.rows_svrg import SVRGMethod, SVRGOnOneBatch, ZOSVRGMethod, ZOSVRGOnOneLoss
from zokern.optim import (
    AdaMUSchedule,
    AdaZeta,
    BlockSchedule,
    SparseMeZO,
    ZOAdam,
    ZOAdaMax,
    ZOAdaMM,
    ZOAdaMU,
    ZOAdamW,
)


class AdaZetaOfQueries(AdaZeta):
    """AdaZeta with its fixed number of queries under the name that the oracle knows."""

    def __init__(self, params: Any, lr: float, *, num_queries: int, **options: Any) -> None:
        super().__init__(params, lr, schedule=num_queries, **options)


@dataclass
class TorchOracle(Oracle):
    """An optimizer of `torch.optim` in float64, fed with the estimate as the gradient."""

    optimizer: torch.optim.Optimizer | None = None
    kind: ClassVar[Callable[..., torch.optim.Optimizer]]

    def step(self, weights: list[Tensor], loss: Loss, t: int) -> float:
        mean, grad = mean_estimate(self.options, weights, loss, t)
        optimizer = self.begin(weights)
        for w, g in zip(weights, grad):
            w.grad = g
        optimizer.step()
        return mean

    def begin(self, weights: list[Tensor]) -> torch.optim.Optimizer:
        """The optimizer, made at the first step."""
        if self.optimizer is None:
            names = {"betas", "weight_decay"}
            options = {name: value for name, value in self.options.items() if name in names}
            self.optimizer = type(self).kind(weights, lr=LR, **options)
        return self.optimizer


class AdamOracle(TorchOracle):
    kind = torch.optim.Adam


class AdamWOracle(TorchOracle):
    kind = torch.optim.AdamW


class AdaMaxOracle(TorchOracle):
    kind = torch.optim.Adamax


class AMSGradOracle(TorchOracle):
    kind = partial(torch.optim.Adam, amsgrad=True)


@dataclass
class AdaMMOracle(Oracle):
    """Chen et al. 2019, Algorithm 1: no bias correction."""

    state: list[list[Tensor]] = field(default_factory=list)

    def step(self, weights: list[Tensor], loss: Loss, t: int) -> float:
        mean, grad = mean_estimate(self.options, weights, loss, t)
        self.state = self.state or [[torch.zeros_like(w) for _ in range(3)] for w in weights]
        for w, g, (m, v, top) in zip(weights, grad, self.state):
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            torch.maximum(top, v, out=top)
            w.sub_(LR * m / (top.sqrt() + 1e-8))
        return mean


@dataclass
class AdaMUOracle(Oracle):
    momenta: list[Tensor] = field(default_factory=list)

    def moves(self, count: int, t: int) -> list[float]:
        """1 for the tensors that step t moves."""
        return [1.0] * count

    def step(self, weights: list[Tensor], loss: Loss, t: int) -> float:
        queries, decay = self.options.get("num_queries", 1), self.options.get("weight_decay", 0.0)
        on = self.moves(len(weights), t)
        alpha, beta1, beta2 = self.options["schedule"](t + 1)
        self.momenta = self.momenta or [torch.zeros_like(w) for w in weights]
        total, moves = 0.0, [torch.zeros_like(w) for w in weights]
        stored = [torch.zeros_like(w) for w in weights]
        for query in range(queries):
            seed = zokern.derive_seed(0, t, query)
            drawn = []
            for i, (w, m) in enumerate(zip(weights, self.momenta)):
                n1, n2 = (zokern.normal(w.shape, seed, stream=i, lane=k).double() for k in (0, 1))
                gradient, past = math.sqrt(alpha) * n1, m + math.sqrt(1 - alpha) * n2
                v = beta2 * gradient**2 + (1 - beta2) * past**2
                drawn.append((beta1 * gradient + (1 - beta1) * past, v))
            plus = loss([w + EPS * a * m for a, w, (m, _) in zip(on, weights, drawn)])
            minus = loss([w - EPS * a * m for a, w, (m, _) in zip(on, weights, drawn)])
            total += (plus + minus) / (2 * queries)
            g = (plus - minus) / (2 * EPS)
            sign = -1.0 if self.options.get("orient_momentum") and g < 0 else 1.0
            for i, (m, v) in enumerate(drawn):
                moves[i] += g * m / (v + 1e-8).sqrt() / queries
                stored[i] += sign * m / queries
        self.momenta = [m if a else old for a, m, old in zip(on, stored, self.momenta)]
        for a, w, move in zip(on, weights, moves):
            w.mul_(1 - LR * decay * a).sub_(LR * a * move)
        return total


@dataclass
class SparseOracle(Oracle):
    """The small weights, at the thresholds of the start; a random block of tensors at a time."""

    thresholds: list[float] = field(default_factory=list)

    def step(self, weights: list[Tensor], loss: Loss, t: int) -> float:
        sparsity, blocks = self.options["sparsity"], self.options.get("blocks")
        if not self.thresholds:
            for w in weights:
                kept = math.ceil((1 - sparsity) * w.numel())
                self.thresholds.append(float(w.abs().flatten().sort().values[kept - 1]))
        masks = [(w.abs() <= h).double() for w, h in zip(weights, self.thresholds)]
        if sparsity == 0:
            masks = [torch.ones_like(w) for w in weights]
        if blocks is not None:
            active = blocks.choose(len(weights), t)
            masks = [m if i in active else 0 * m for i, m in enumerate(masks)]
        queries, eps = self.options.get("num_queries", 1), EPS
        total, moves = 0.0, [torch.zeros_like(w) for w in weights]
        for query in range(queries):
            seed = zokern.derive_seed(0, t, query)
            z = [
                zokern.normal(w.shape, seed, stream=i).double() * m
                for i, (w, m) in enumerate(zip(weights, masks))
            ]
            plus = loss([w + eps * d for w, d in zip(weights, z)])
            minus = loss([w - eps * d for w, d in zip(weights, z)])
            total += (plus + minus) / (2 * queries)
            for move, d in zip(moves, z):
                move += (plus - minus) / (2 * eps * queries) * d
        for w, m, move in zip(weights, masks, moves):
            w.sub_(LR * self.options.get("weight_decay", 0.0) * m * w).sub_(LR * move)
        return total


STAGES = AdaMUSchedule(total_steps=10, warmup=2, settled=6)

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
    "ZO-SVRG": ZOSVRGMethod(
        ZOSVRGOnOneLoss, {"interval": 2, "weight_decay": 0.1}, (50.71442, 49.28983, 55.95199, 55.92176)
    ),
    "Adam": Method(
        ZOAdam,
        {"num_queries": 2, "weight_decay": 0.1},
        (50.71442, 50.33583, 49.76386, 49.13003),
        AdamOracle,
        rate=4,
    ),
    "AdamW-one-sided": Method(
        ZOAdamW,
        {"num_queries": 3, "one_sided": True, "weight_decay": 0.1, "betas": (0.8, 0.99)},
        (50.71235, 49.58869, 48.73775, 47.76332),
        AdamWOracle,
        rate=2,
    ),
    "AdaMax": Method(ZOAdaMax, {}, (50.71455, 50.58085, 50.39007, 50.24261), AdaMaxOracle, rate=16),
    "AdaMM": Method(ZOAdaMM, {}, (50.71455, 50.82393, 51.08369, 51.66489), AdaMMOracle),
    "AMSGrad": Method(
        ZOAdaMM,
        {"bias_correction": True, "num_queries": 2},
        (50.71442, 50.33583, 49.79599, 49.20913),
        AMSGradOracle,
        rate=4,
    ),
    # where v is small, the quotient enlarges the rounding of the fp32 momentum
    "AdaMU": Method(
        ZOAdaMU,
        {"schedule": STAGES},
        (50.71455, 61.28212, 63.61541, 63.18051),
        AdaMUOracle,
        rate=0.5,
        gaussian=True,
        tolerance=1e-5,
    ),
    "AdaMU-2-queries": Method(
        ZOAdaMU,
        {"schedule": STAGES, "num_queries": 2, "orient_momentum": True, "weight_decay": 0.1},
        (50.71442, 53.37908, 54.79859, 53.27375),
        AdaMUOracle,
        gaussian=True,
    ),
    "Sparse": Method(
        SparseMeZO,
        {"sparsity": 0.5, "num_queries": 2},
        (50.71318, 49.76609, 49.56071, 48.35617),
        SparseOracle,
        depth=1.02,
    ),
    "Sparse-blocks": Method(
        SparseMeZO,
        {
            "sparsity": 0.0,
            "weight_decay": 0.1,
            "blocks": BlockSchedule(active=2, order="random", by="tensor"),
        },
        (50.71348, 46.83709, 45.03103, 45.0377),
        SparseOracle,
    ),
}
