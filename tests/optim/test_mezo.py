"""MeZO's own: what the loss of a step is, and the two forms of momentum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.optim.problems import EPS, LR, RESTORES, Bowl, same, values
from zokern.optim import MeZO, dense
from zokern.optim.moves import Pass
from zokern.optim.perturbation import FullDirections
from zokern.reference.perturb import CHUNK


def test_the_loss_of_a_two_sided_step_is_the_mean_of_its_evaluations() -> None:
    model = Bowl()
    optimizer = MeZO(model, LR, EPS, num_queries=3)
    loss = optimizer.step(model)
    assert len(optimizer.last.losses) == 6
    assert loss == pytest.approx(sum(optimizer.last.losses) / 6, rel=1e-12)


def test_the_loss_of_a_one_sided_step_is_that_of_the_weights() -> None:
    model = Bowl()
    before = float(model().detach())
    optimizer = MeZO(model, LR, EPS, num_queries=3, one_sided=True)
    assert optimizer.step(model) == before
    assert len(optimizer.last.losses) == 4
    assert optimizer.last.losses[0] == before


def test_weight_decay_is_decoupled() -> None:
    """It shrinks the weights by lr * decay whatever the loss, and does not enter the estimate."""
    weight = nn.Parameter(torch.ones(100))
    bias = nn.Parameter(torch.ones(3))
    groups = [{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = MeZO(groups, lr=0.5, weight_decay=0.25)
    optimizer.step(lambda: 1.0)
    torch.testing.assert_close(weight.detach(), torch.full((100,), 0.875))
    torch.testing.assert_close(bias.detach(), torch.ones(3))


@pytest.mark.parametrize("restore", RESTORES.values(), ids=RESTORES.keys())
def test_dense_momentum_is_the_window_of_all_steps(restore: dict[str, object]) -> None:
    model, twin = Bowl(torch.float64), Bowl(torch.float64)
    options = {"momentum": 0.5, "weight_decay": 0.1, "num_queries": 2, **restore}
    dense = MeZO(model, LR / 4, EPS, **options)
    window = MeZO(twin, LR / 4, EPS, momentum_window=20, **options)
    for _ in range(12):
        assert dense.step(model) == pytest.approx(window.step(twin), rel=1e-5)
    assert not window.state


def test_a_window_forgets() -> None:
    """With a window of 1 there is no momentum; the history holds no more than its window."""
    model, twin = Bowl(), Bowl()
    window = MeZO(model, LR, EPS, momentum=0.5, momentum_window=1)
    plain = MeZO(twin, LR, EPS)
    for _ in range(4):
        window.step(model)
        plain.step(twin)
    assert same(values(model), values(twin))
    assert len(window._history) == 1


def test_momentum_may_differ_between_groups() -> None:
    model, twin = Bowl(), Bowl()
    groups = [
        {"params": [model.first], "momentum": 0.0},
        {"params": [model.second, model.inner.weight]},
    ]
    optimizer = MeZO(groups, LR, EPS, momentum=0.5, restore="snapshot")
    plain = MeZO(twin, LR, EPS, restore="snapshot")
    for losses in ([2.0, 1.0], [1.5, 1.0]):
        optimizer.replay_step(losses)
        plain.replay_step(losses)
    torch.testing.assert_close(model.first, twin.first)
    assert not torch.allclose(model.second, twin.second)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_dense_updates_of_16_bit_weights_use_the_rounding_of_perturb(dtype: torch.dtype) -> None:
    """With nothing dense to add, bit for bit; over a piece boundary and for strided weights too."""
    size = CHUNK + 9
    weights = [torch.linspace(-2, 2, size).to(dtype), torch.randn(6, 5).to(dtype).t()]
    twins = [w.clone() for w in weights]
    zeros = [torch.zeros_like(w, dtype=torch.float32) for w in weights]
    full = FullDirections("gaussian")
    move: dict[str, Any] = {"decay": 0.75, "terms": {7: 1e-3, 9: 0.5}, "rounding": "stochastic"}
    work = Pass([3, 5], 0, weights, weights, **move, rounding_seed=7)
    dense.add_(work, zeros, 1.0, full, "stochastic", seed=7)
    full.apply(Pass([3, 5], 0, twins, twins, **move, rounding_seed=7))
    assert same(weights, twins)


def test_momentum_buffers_are_the_only_state() -> None:
    model = Bowl(torch.bfloat16)
    optimizer = MeZO(model, LR, EPS, momentum=0.9)
    optimizer.step(model)
    for p in model.parameters():
        assert set(optimizer.state[p]) == {"momentum_buffer"}
        assert optimizer.state[p]["momentum_buffer"].dtype == torch.float32
    plain = MeZO(Bowl(), LR, EPS)
    plain.step(Bowl())
    assert not plain.state
