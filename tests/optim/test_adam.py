"""The adaptive-moment methods beyond their formulas (those: test_battery.py, tests/ops/test_adam.py)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import zokern
from tests.optim.problems import EPS, Bowl, same, values
from zokern.optim import ZOAdam, ZOAdaMax, ZOAdaMM, ZOAdamW

KINDS: dict[str, tuple[type[ZOAdam], type[torch.optim.Optimizer], dict[str, Any], dict[str, Any]]] = {
    "ZOAdam": (ZOAdam, torch.optim.Adam, {"weight_decay": 0.1}, {}),
    "ZOAdamW": (ZOAdamW, torch.optim.AdamW, {"weight_decay": 0.1}, {}),
    "ZOAdaMax": (ZOAdaMax, torch.optim.Adamax, {}, {}),
    "ZOAdaMM": (ZOAdaMM, torch.optim.Adam, {"bias_correction": True}, {"amsgrad": True}),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("restore", ["inplace", "exact"])
def test_is_torchs_optimizer_in_fp32_on_the_estimate(name: str, restore: str) -> None:
    """The same fp32 weights, moments and rates: after 20 steps both are a few roundings apart."""
    kind, theirs, options, extra = KINDS[name]
    model, twin = Bowl(), Bowl()
    optimizer = kind(model, 0.02, EPS, restore=restore, **options)
    options = {k: v for k, v in options.items() if k != "bias_correction"}
    plain = theirs(twin.parameters(), lr=0.02, **options, **extra)
    steps = 20
    for step in range(steps):
        optimizer.step(model)
        ((seed, g),) = optimizer.last.projected_grads.items()
        assert seed == zokern.derive_seed(0, step)
        for i, p in enumerate(twin.parameters()):
            p.grad = g * zokern.normal(p.shape, seed, stream=i)
        plain.step()
    largest = max(float(p.abs().max()) for p in values(twin))
    # a rounding of the weights and one of the direction (of size 1) a step, and in place two more
    bound = steps * (3 * largest * 2**-24 + 0.02 * 8 * 2**-24)
    for p, expected in zip(values(model), values(twin)):
        assert (p - expected).abs().max() < bound


def test_moments_are_fp32_and_only_adamm_has_a_maximum() -> None:
    for kind in (ZOAdam, ZOAdamW, ZOAdaMax, ZOAdaMM):
        model = Bowl(torch.bfloat16)
        optimizer = kind(model)
        optimizer.step(model)
        names = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * (kind is ZOAdaMM)
        for p in model.parameters():
            state = optimizer.state[p]
            assert state["step"] == 1
            assert {n: t.dtype for n, t in state.items() if n != "step"} == dict.fromkeys(
                names, torch.float32
            )


def test_16_bit_runs_resume_with_fp32_moments() -> None:
    """torch casts loaded state to the dtype of the weights; here it stays as it was saved."""
    model = Bowl(torch.bfloat16)
    optimizer = ZOAdaMM(model, 0.01, EPS)
    for _ in range(3):
        optimizer.step(model)
    again = Bowl(torch.bfloat16)
    again.load_state_dict(model.state_dict())
    resumed = ZOAdaMM(again, 0.01, EPS)
    resumed.load_state_dict(optimizer.state_dict())
    for _ in range(3):
        assert resumed.step(again) == optimizer.step(model)
    assert same(values(again), values(model))


def test_betas_and_adam_eps_may_differ_between_groups() -> None:
    model, alone = Bowl(), Bowl()
    special = {"betas": (0.5, 0.7), "adam_eps": 0.1, "weight_decay": 0.3}
    groups = [{"params": [model.first], **special}, {"params": [model.second, model.inner.weight]}]
    optimizer, plain = ZOAdam(groups, 0.01, EPS), ZOAdam(alone, 0.01, EPS)
    optimizer.step(model), plain.step(alone)
    assert same(values(model)[1:], values(alone)[1:])
    uniform = Bowl()
    ZOAdam(uniform, 0.01, EPS, **special).step(uniform)
    assert same(values(model)[:1], values(uniform)[:1])
    assert not same(values(model)[:1], values(alone)[:1])


def test_a_new_group_counts_its_own_steps() -> None:
    model = Bowl()
    optimizer = ZOAdam([model.first], 0.01, EPS)
    optimizer.step(model), optimizer.step(model)
    optimizer.add_param_group({"params": [model.second]})
    optimizer.step(model)
    assert [optimizer.state[p]["step"] for p in (model.first, model.second)] == [3, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must be in \[0, 1\), got 1.0"),
        ({"betas": (0.9,)}, r"betas must be two numbers, got \(0.9,\)"),
        ({"adam_eps": 0.0}, "adam_eps must be a number > 0, got 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must be a number >= 0, got -1.0"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    for params in (nn.Linear(2, 2), [{"params": [nn.Parameter(torch.ones(2))], **options}]):
        with pytest.raises(ValueError, match=message):
            ZOAdam(params, **(options if isinstance(params, nn.Module) else {}))
