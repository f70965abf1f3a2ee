"""A valid call of every optimizer, perturbation and schedule, and what kind each of its arguments is."""

from __future__ import annotations

from typing import Any

import torch

from tests.hostile.calls import Call, model
from tests.hostile.values import BELOW_1, FLAG, INTEGER, NONE, NOTHING, POSITIVE_64, SHARE, Kind, kind
from zokern import optim

PARAMS = kind("module")
COMMON = {
    "num_queries": INTEGER, "perturbation": NONE, "distribution": NOTHING, "evaluation": NOTHING,
    "max_parallel": INTEGER | NONE, "restore": NOTHING, "lazy": FLAG, "common_random_numbers": FLAG,
    "streams": NOTHING, "rounding": NOTHING, "seed": INTEGER,
    "module": NONE,
}  # fmt: skip
USUAL: dict[str, Any] = {
    "lr": 1e-3, "eps": 1e-3, "num_queries": 1, "perturbation": None, "distribution": "gaussian",
    "evaluation": "loop", "max_parallel": None, "restore": "inplace", "lazy": False, "rounding": "nearest", "seed": 0,
    "common_random_numbers": True, "streams": "auto", "module": None,
}  # fmt: skip
RATE = POSITIVE_64
RATES = {"lr": RATE, "eps": RATE, "weight_decay": RATE}


def method(cls: type, kinds: dict[str, Kind], without: tuple[str, ...] = (), **own: Any) -> Call:
    def valid() -> dict[str, Any]:
        given = {"params": model(), **USUAL, "weight_decay": 0.0, **own}
        return {name: value for name, value in given.items() if name not in without}

    every = {"params": PARAMS, **RATES, **COMMON, **kinds}
    kept = {name: k for name, k in every.items() if name not in without}
    return Call(cls, valid, kept, without=without)


ADAM = {"betas": NOTHING, "adam_eps": RATE, "one_sided": FLAG}
ADAM_OWN: dict[str, Any] = {"betas": (0.9, 0.99), "adam_eps": 1e-8, "one_sided": False}
MEZO = {"one_sided": FLAG, "momentum": BELOW_1, "momentum_window": INTEGER | NONE}
MEZO_OWN: dict[str, Any] = {"one_sided": False, "momentum": 0.5, "momentum_window": 2}
SVRG = {"interval": INTEGER, "anchor": NOTHING}
SVRG_OWN: dict[str, Any] = {"interval": 2, "anchor": "replay"}

OPTIMIZERS = [
    method(optim.MeZO, MEZO, **MEZO_OWN),
    method(optim.AdaZeta, {**MEZO, "schedule": INTEGER, "steps_per_epoch": INTEGER | NONE},
           ("num_queries",), **MEZO_OWN, schedule=2, steps_per_epoch=3),
    method(optim.ZOAdam, ADAM, **ADAM_OWN),
    method(optim.ZOAdamW, ADAM, **ADAM_OWN),
    method(optim.ZOAdaMax, ADAM, **ADAM_OWN),
    method(optim.ZOAdaMM, {**ADAM, "bias_correction": FLAG}, **ADAM_OWN, bias_correction=False),
    method(optim.ZOAdaMU, {"schedule": INTEGER | kind("module", "class"), "sigma": RATE, "orient_momentum": FLAG},
           ("distribution",), schedule=10, sigma=1e-8, orient_momentum=False),
    method(optim.MeZOSVRG, {**SVRG, "lr_minibatch": RATE}, **SVRG_OWN, lr_minibatch=1e-4),
    method(optim.ZOSVRG, {**SVRG, "num_samples": INTEGER}, ("num_queries",), **SVRG_OWN, num_samples=2),
    method(optim.SparseMeZO,
           {**MEZO, "sparsity": BELOW_1, "refresh": INTEGER | NONE, "masks": NONE | kind("{}"), "blocks": NONE},
           ("perturbation",), **MEZO_OWN, sparsity=0.5, refresh=2, masks=None, blocks=None),
    Call(optim.ZerothOrderOptimizer,
         lambda: {"params": model(), "defaults": {"lr": 0.1}, **{k: v for k, v in USUAL.items() if k != "lr"}},
         {"params": PARAMS, "defaults": kind("{}"), "eps": RATE, **COMMON}),
]  # fmt: skip

CHOICES = [
    Call(optim.SmallWeights, lambda: {"sparsity": 0.5, "refresh": 2}, {"sparsity": BELOW_1, "refresh": INTEGER | NONE}),
    Call(optim.GivenMasks, lambda: {"masks": {0: torch.ones(3) > 0}}, {"masks": kind("{}")}),
    Call(optim.Blocks, lambda: {"schedule": optim.BlockSchedule(), "of": optim.FullNoise()},
         {"schedule": NOTHING, "of": NONE}),
    Call(optim.BlockSchedule, lambda: {"active": 1, "period": 1, "order": "random", "by": "layer", "seed": 0},
         {"active": INTEGER, "period": INTEGER, "order": NOTHING, "by": kind("module", "class"), "seed": INTEGER}),
    Call(optim.Momentum, lambda: {"schedule": optim.AdaMUSchedule(10)}, {"schedule": kind("module", "class")}),
    Call(optim.AdaMUSchedule,
         lambda: {"total_steps": 10, "warmup": 1, "settled": 5, "alpha": 0.5, "beta1": 0.5, "beta2": 0.5},
         {"total_steps": INTEGER, "warmup": INTEGER | NONE, "settled": INTEGER | NONE, "alpha": SHARE,
          "beta1": SHARE, "beta2": SHARE}),
    Call(optim.QuerySchedule, lambda: {"alpha": 0.85, "beta": 0.45, "q_max": 20, "steps_per_epoch": 3},
         {"alpha": RATE, "beta": RATE, "q_max": INTEGER, "steps_per_epoch": INTEGER | NONE}),
    Call(optim.QuerySchedule.reach, lambda: {"q_last": 4, "epochs": 8, "alpha": 0.85, "q_max": 20, "steps_per_epoch": 3},
         {"q_last": INTEGER, "epochs": NOTHING, "alpha": SHARE | kind("1.5"), "q_max": INTEGER | NONE,
          "steps_per_epoch": INTEGER | NONE}),
    Call(optim.PlateauAnneal,
         lambda: {"optimizer": torch.optim.SGD([torch.ones(1)], 0.1), "steps_per_epoch": 2, "factor": 5.0,
                  "threshold": 1.05},
         {"optimizer": NOTHING, "steps_per_epoch": INTEGER, "factor": kind("1.5", "1e300", "2**70"),
          "threshold": RATE}),
    Call(optim.weighted_mean, lambda: {"loss": lambda batch: 1.0, "batches": [torch.ones(2)], "sizes": [2]},
         {"loss": kind("module", "class"), "batches": kind("[[]]"), "sizes": NONE}),
]  # fmt: skip
