"""Rows of the battery that combine the axes: rules with perturbations, and with batched evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.optim.estimates import Loss, mean_estimate
from tests.optim.problems import LR, Fit, Method, Oracle
from tests.optim.rows import ROWS as SINGLE
from tests.optim.rows import STAGES, AdamOracle, AdaMUOracle, AdamWOracle, TorchOracle
from tests.optim.rows_svrg import SVRGMethod, SVRGOnOneBatch, SVRGOracle
from zokern.optim import Blocks, BlockSchedule, MeZO, SmallWeights, ZOAdam, ZOAdaMU, ZOAdamW


@dataclass
class Chosen:
    """The elements that a perturbation lets move, in plain PyTorch."""

    kind: Any
    thresholds: list[float] = field(default_factory=list)

    def masks(self, weights: list[Tensor], t: int) -> list[Tensor]:
        kind = self.kind
        masks = [torch.ones_like(w) for w in weights]
        if isinstance(kind, Blocks):
            active = kind.schedule.choose(len(weights), t)
            masks = [m * (i in active) for i, m in enumerate(masks)]
            kind = kind.of
        if isinstance(kind, SmallWeights):
            if not self.thresholds:
                for w in weights:
                    kept = math.ceil((1 - kind.sparsity) * w.numel())
                    self.thresholds.append(float(w.abs().flatten().sort().values[kept - 1]))
            masks = [m * (w.abs() <= h) for m, w, h in zip(masks, weights, self.thresholds)]
        return masks


@dataclass
class MaskedOracle(Oracle):
    """MeZO with the heavy ball; weights that do not move keep their momentum and do not decay."""

    chosen: Chosen | None = None

    def step(self, weights: list[Tensor], loss: Loss, t: int) -> float:
        o = {"momentum": 0.0, "weight_decay": 0.0, **self.options}
        self.chosen = self.chosen or Chosen(o.get("perturbation"))
        masks = self.chosen.masks(weights, t)
        mean, grad = mean_estimate(o, weights, loss, t, masks)
        self.momenta = self.momenta or [torch.zeros_like(w) for w in weights]
        for w, g, m, mask in zip(weights, grad, self.momenta, masks):
            m.mul_(1 - mask + mask * o["momentum"]).add_(g)
            w.mul_(1 - LR * o["weight_decay"] * mask).sub_(LR * m * mask)
        return mean


@dataclass
class MaskedTorch(TorchOracle):
    """Runs the rule of `torch.optim` on all and takes back what does not move; a tensor none of which
    moves has no gradient, as frozen ones in PyTorch."""

    chosen: Chosen | None = None

    def step(self, weights: list[Tensor], loss: Loss, t: int) -> float:
        self.chosen = self.chosen or Chosen(self.options.get("perturbation"))
        masks = self.chosen.masks(weights, t)
        mean, grad = mean_estimate(self.options, weights, loss, t, masks)
        optimizer = self.begin(weights)
        before = [w.clone() for w in weights]
        states = [{k: v.clone() for k, v in optimizer.state[w].items()} for w in weights]
        for w, g, mask in zip(weights, grad, masks):
            w.grad = g if mask.any() else None
        optimizer.step()
        for w, old, state, mask in zip(weights, before, states, masks):
            w.copy_(torch.where(mask.bool(), w, old))
            for name, value in optimizer.state[w].items():
                if value.shape == w.shape:
                    kept = state.get(name, torch.zeros_like(value))
                    value.copy_(torch.where(mask.bool(), value, kept))
        return mean


class MaskedAdam(MaskedTorch):
    kind = AdamOracle.kind


class MaskedAdamW(MaskedTorch):
    kind = AdamWOracle.kind


@dataclass
class MaskedSVRG(SVRGOracle):
    """The elements that move are those of an interval's full step."""

    chosen: Chosen | None = None

    def choose(self, weights: list[Tensor], t: int) -> list[Tensor] | None:
        self.chosen = self.chosen or Chosen(self.options.get("perturbation"))
        return self.chosen.masks(weights, t // self.options["interval"])


class AdaMUInBlocks(AdaMUOracle):
    def moves(self, count: int, t: int) -> list[float]:
        active = self.options["perturbation"].schedule.choose(count, t)
        return [float(i in active) for i in range(count)]


@dataclass(frozen=True)
class MaskedSVRGMethod(SVRGMethod):
    oracle: type[Oracle] = MaskedSVRG


HALF = SmallWeights(0.5)
TWO = Blocks(BlockSchedule(active=2, order="random", by="tensor"))
ONE = Blocks(BlockSchedule(by="tensor"))
BATCHED: dict[str, Any] = {"evaluation": "batched"}

COMBINED: dict[str, Method] = {
    "MeZO-small": Method(
        MeZO,
        {"perturbation": HALF, "num_queries": 2},
        (50.71318, 49.76609, 49.56071, 48.35617),
        MaskedOracle,
        depth=1.02,
    ),
    "MeZO-small-momentum": Method(
        MeZO,
        {"perturbation": HALF, "momentum": 0.5, "weight_decay": 0.1},
        (50.71315, 50.67822, 50.64385, 50.56394),
        MaskedOracle,
        depth=1.02,
    ),
    "Adam-blocks": Method(
        ZOAdam,
        {"perturbation": TWO, "num_queries": 2, "weight_decay": 0.1},
        (50.71333, 49.8499, 49.11763, 48.34321),
        MaskedAdam,
        rate=4,
    ),
    "AdamW-small": Method(
        ZOAdamW,
        {"perturbation": HALF, "num_queries": 2},
        (50.71318, 50.35065, 50.13452, 49.72913),
        MaskedAdamW,
        rate=4,
        depth=1.02,
    ),
    "SVRG-blocks": MaskedSVRGMethod(
        SVRGOnOneBatch,
        {"perturbation": ONE, "interval": 3, "weight_decay": 0.1},
        (50.71343, 48.89589, 52.83541, 58.0715),
        steps=600,
    ),
    "SVRG-small-blocks": MaskedSVRGMethod(
        SVRGOnOneBatch,
        {"perturbation": Blocks(TWO.schedule, HALF), "interval": 2, "num_queries": 2},
        (50.71286, 49.88361, 49.77913, 48.83593),
        depth=1.02,
    ),
    "AdaMU-blocks": Method(
        ZOAdaMU,
        {"perturbation": TWO, "schedule": STAGES, "num_queries": 2},
        (50.71333, 46.26331, 44.40232, 43.86883),
        AdaMUInBlocks,
        rate=0.5,
        gaussian=True,
        tolerance=1e-5,
    ),
    "MeZO-batched": Method(
        MeZO,
        {**BATCHED, "num_queries": 4, "weight_decay": 0.1},
        (102.03764, 106.05732, 86.41939, 63.84651),
        problem=Fit,
    ),
    "Adam-batched": Method(
        ZOAdam,
        {**BATCHED, "num_queries": 2, "one_sided": True},
        (102.03428, 98.61389, 95.65967, 93.04959),
        AdamOracle,
        rate=4,
        problem=Fit,
    ),
    "SVRG-small-batched": MaskedSVRGMethod(
        SVRGOnOneBatch,
        {**BATCHED, "perturbation": HALF, "interval": 3},
        (102.03661, 102.03514, 102.03812, 102.04489),
        problem=Fit,
        depth=1.02,
        rate=0.25,
    ),
}

ROWS = {**SINGLE, **COMBINED}
