"""A valid call of every public function and constructor, and what kind each of its arguments is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import zokern
from tests.hostile.calls import Call, model
from tests.hostile.optimizers import CHOICES, OPTIMIZERS
from tests.hostile.values import (
    FINITE,
    FLAG,
    INTEGER,
    NONE,
    NOTHING,
    ONE_FOR_ALL,
    POSITIVE,
    SHARE,
    TENSOR,
    kind,
)  # fmt: skip
from zokern import backends, ops, optim
from zokern import nn as znn


def tensors(*sizes: int) -> list[torch.Tensor]:
    return [torch.ones(size) for size in sizes]


def cores() -> list[torch.Tensor]:
    return [torch.ones(1, 2, 2), torch.ones(2, 3, 1)]


def up() -> list[torch.Tensor]:
    return [torch.ones(1, 3, 2), torch.ones(2, 2, 1)]


PLACES = {"streams": NONE, "offsets": NONE}
MOVE = {
    "seeds": INTEGER,
    "scales": FINITE,
    "decay": FINITE,
    **PLACES,
    "distribution": NOTHING,
    "rounding": NOTHING,
}


def move() -> dict[str, Any]:
    return {
        "params": tensors(3), "seeds": 7, "scales": 1e-3, "decay": 1.0, "streams": [0], "offsets": [0],
        "distribution": "gaussian", "rounding": "nearest", "out": tensors(3),
    }  # fmt: skip


def state(*names: str, **others: Any) -> Callable[[], dict[str, Any]]:
    """The arguments of an op with state: `move()` without what it lacks."""

    def make() -> dict[str, Any]:
        given = {**move(), **{name: tensors(3) for name in names}, **others}
        return {name: value for name, value in given.items() if name not in ("seeds", "scales")}

    return make


def move_alone() -> dict[str, Any]:
    return {name: value for name, value in move().items() if name != "out"}


FUNCTIONS = [
    Call(ops.perturbed, move_alone, {"params": TENSOR | kind("0-d tensor"), **MOVE}, within=True),
    Call(
        ops.normal_, lambda: {n: v for n, v in move_alone().items() if n != "decay"},
        {"params": TENSOR | kind("0-d tensor", "meta tensor"), **{n: k for n, k in MOVE.items() if n != "decay"}},
    ),
    Call(ops.perturb_, move, {"params": TENSOR, **MOVE, "out": NONE}),
    Call(
        ops.perturb_masked_, lambda: {**move(), "thresholds": 0.5},
        {"params": TENSOR, **MOVE, "out": NONE, "thresholds": ONE_FOR_ALL, "masks": NONE},
    ),
    Call(
        ops.adam_,
        lambda: {
            **state("exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", lr=1e-3, betas=(0.9, 0.99), eps=1e-8, step=1,
                    variant="adamm", l2=0.0, grads=0.5, displacements=0.5)(), "seeds": 7,
        },
        {
            "params": TENSOR, "exp_avgs": TENSOR, "exp_avg_sqs": TENSOR, "max_exp_avg_sqs": TENSOR,
            "seeds": INTEGER, "grads": FINITE, "lr": FINITE, "betas": NOTHING, "eps": POSITIVE,
            "step": INTEGER | NONE, "variant": NOTHING, "l2": FINITE, "displacements": FINITE | NONE,
            "decay": FINITE, **PLACES, "distribution": NOTHING, "rounding": NOTHING, "out": NONE,
        },
    ),
    Call(
        ops.adamu_probe_, lambda: _without_distribution(state("exp_avgs", seed=7, scale=1e-3, alpha=0.5, beta1=0.5)()),
        {
            "params": TENSOR, "exp_avgs": TENSOR, "seed": INTEGER, "scale": FINITE, "alpha": SHARE,
            "beta1": SHARE, "decay": FINITE, **PLACES, "rounding": NOTHING, "out": NONE,
        },
    ),
    Call(
        ops.adamu_update_,
        lambda: _without_distribution(
            state("exp_avgs", seed=7, grad=0.5, lr=1e-3, alpha=0.5, beta1=0.5, beta2=0.5, sigma=1e-8,
                  momentum_scale=1.0, displacement=0.0)()
        ),
        {
            "params": TENSOR, "exp_avgs": TENSOR, "seed": INTEGER, "grad": FINITE, "lr": FINITE, "alpha": SHARE,
            "beta1": SHARE, "beta2": SHARE, "sigma": POSITIVE, "momentum_scale": FINITE, "decay": FINITE,
            "displacement": FINITE, **PLACES, "rounding": NOTHING, "out": NONE,
        },
    ),
    Call(
        ops.add_dense_,
        lambda: {
            "params": tensors(3), "dense": tensors(3), "scale": 0.5, "rounding": "nearest", "seed": 7,
            "streams": [0], "offsets": [0], "out": tensors(3),
        },
        {
            "params": TENSOR, "dense": TENSOR, "scale": FINITE, "rounding": NOTHING,
            "seed": INTEGER | NONE, **PLACES, "out": NONE,
        },
    ),
    Call(
        ops.normal,
        lambda: {"shape": 3, "seed": 7, "stream": 0, "lane": 0, "offset": 0, "device": "cpu",
                 "dtype": torch.float32, "distribution": "gaussian"},
        {
            "shape": INTEGER | kind("[]", "np.array", "generator"), "seed": INTEGER, "stream": INTEGER,
            "lane": INTEGER, "offset": INTEGER, "device": NONE, "dtype": NOTHING, "distribution": NOTHING,
        },
    ),
    Call(
        ops.tt_halves, lambda: {"cores": cores(), "split": 1}, {"cores": TENSOR, "split": INTEGER | NONE},
    ),
    Call(
        ops.tt_linear,
        lambda: {"x": torch.ones(1, 2), "cores": cores(), "split": 1, "bias": torch.ones(3), "groups": "auto",
                 "out": torch.ones(1, 3), "noise": ops.TTNoise([1], [0.1], [0, 4, 10])},
        {"x": TENSOR, "cores": TENSOR, "split": INTEGER | NONE, "bias": NOTHING, "groups": NOTHING, "out": NONE,
         "noise": NONE},
        {"bias": "noise.offsets|bias"},
    ),
    Call(
        ops.tt_adapter,
        lambda: {"x": torch.ones(1, 2), "down": cores(), "up": up(), "down_split": 1, "up_split": 1,
                 "down_bias": torch.ones(3), "up_bias": torch.ones(2), "activation": "relu", "scale": 0.5,
                 "groups": 2, "out": torch.ones(1, 2), "noise": ops.TTNoise([1], [0.1], [0] * 6)},
        {"x": TENSOR, "down": TENSOR, "up": TENSOR, "down_split": INTEGER | NONE, "up_split": INTEGER | NONE,
         "down_bias": NOTHING, "up_bias": NOTHING, "activation": NOTHING, "scale": FINITE, "groups": NOTHING,
         "out": NONE, "noise": NONE},
        {"down_bias": "noise.offsets|down_bias", "up_bias": "noise.offsets|up_bias"},
    ),
    Call(
        ops.tt_cost, lambda: {"cores": cores(), "split": 1, "rows": 1, "groups": 2},
        {"cores": TENSOR, "split": INTEGER | NONE, "rows": INTEGER, "groups": NOTHING},
    ),
    Call(
        ops.TTNoise,
        lambda: {"seeds": [1], "scales": [0.1], "offsets": [0], "stream": 0, "distribution": "gaussian"},
        {"seeds": NOTHING, "scales": NOTHING, "offsets": kind("[]", "np.array", "generator"), "stream": INTEGER,
         "distribution": NOTHING},
    ),
    Call(
        zokern.derive_seed, lambda: {"run_seed": 0, "step": 0, "query": 0},
        {"run_seed": INTEGER, "step": INTEGER, "query": INTEGER},
    ),
    Call(backends.use_backend, lambda: {"backend": "cpu", "isa": "portable"}, {"backend": NOTHING, "isa": NONE},
         within=True),
    Call(
        backends.unavailable_reason, lambda: {"name": "cpu", "device_type": "cpu", "op": "perturb_"},
        {"name": NOTHING, "device_type": kind("text"), "op": NONE | kind("text")},
    ),
    Call(
        backends.select, lambda: {"op": "perturb_", "device_type": "cpu", "backend": "reference"},
        {"op": NOTHING, "device_type": kind("text"), "backend": NONE},
    ),
    Call(backends.describe, lambda: {"device": "cpu"}, {"device": kind("text")}),
]  # fmt: skip


def _without_distribution(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != "distribution"}


# -- zokern.nn -------------------------------------------------------------------------------------

DEVICE = {"generator": NONE, "device": NONE}


def _adapted() -> nn.Module:
    made = model()
    znn.add_tt_adapters(made, 2, 1, ["0"])
    return made


LAYERS = [
    Call(
        znn.TTLinear,
        lambda: {"in_features": 4, "out_features": 4, "rank": 2, "modes": ([2, 2], [2, 2]), "bias": True, "std": 0.5, "clip_ranks": True,
                 "generator": None, "device": None},
        {"in_features": NOTHING, "out_features": NOTHING, "rank": INTEGER, "modes": NONE, "bias": FLAG,
         "std": POSITIVE | NONE, "clip_ranks": FLAG, **DEVICE},
        {"in_features": "in_features|modes", "out_features": "out_features|modes"},
    ),
    Call(
        znn.TTAdapter,
        lambda: {"hidden": 4, "bottleneck": 2, "rank": 2, "activation": "relu", "scale": 1.0, "bias": True,
                 "init": "identity", "std": (0.5, 0.5), "modes": None, "clip_ranks": True,
                 "generator": None, "device": None},
        {"hidden": INTEGER, "bottleneck": INTEGER, "rank": INTEGER, "activation": NOTHING, "scale": FINITE,
         "bias": FLAG, "init": NOTHING, "std": kind("np.array", "generator"), "modes": NONE, "clip_ranks": FLAG, **DEVICE},
    ),
    Call(
        znn.add_tt_adapters,
        lambda: {"model": model(), "bottleneck": 2, "rank": 1, "targets": ["0"], "activation": "relu", "scale": 1.0,
                 "bias": "down", "init": "identity", "hidden": 2, "inplace": True, "clip_ranks": True,
                 "generator": None},
        {"model": NOTHING, "bottleneck": INTEGER, "rank": INTEGER, "targets": NOTHING, "activation": NOTHING,
         "scale": FINITE, "bias": FLAG, "init": NOTHING, "hidden": INTEGER | NONE, "inplace": FLAG | NONE,
         "clip_ranks": FLAG, "generator": NONE},
        {"model": "model|targets"},
    ),
    Call(znn.factorize, lambda: {"n": 8, "parts": 3, "descending": False},
         {"n": INTEGER, "parts": INTEGER, "descending": FLAG}),
    Call(znn.find_tt_adapters, lambda: {"model": _adapted()}, {"model": NOTHING}),
    Call(znn.remove_tt_adapters, lambda: {"model": _adapted()}, {"model": NOTHING}),
    Call(znn.save_tt_adapters, lambda: {"model": _adapted(), "folder": "/dev/null/none"},
         {"model": NOTHING, "folder": kind("text")}),
    Call(znn.load_tt_adapters, lambda: {"model": _adapted(), "folder": "/dev/null/none"},
         {"model": NOTHING, "folder": NOTHING}, {"model": "model|folder"}),
    Call(znn.pack, lambda: {"root": nn.Sequential(znn.TTLinear(4, 4)), "name": "tt"}, {"root": NOTHING, "name": kind("text")}),
]  # fmt: skip

CALLS = [*FUNCTIONS, *LAYERS, *OPTIMIZERS, *CHOICES]

RESULTS = {ops.TTPlan, optim.Estimate, optim.StepRecord, znn.TTAdapters, znn.TTParameters}
"""What zokern makes and gives back: a user reads it and does not construct it."""
WITHOUT_ARGUMENTS = {optim.FullNoise, optim.Perturbation}


def public() -> Iterator[Any]:
    """Every public function and class, and the alternative constructors."""
    for module in (zokern, ops, znn, optim):
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value):
                yield value
    for name in vars(backends):
        value = getattr(backends, name)
        if (
            not name.startswith("_")
            and getattr(value, "__module__", None) == backends.__name__
            and callable(value)
        ):
            yield value
