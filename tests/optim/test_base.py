"""The face of the optimizers: what they take, refuse, count and remember."""

from __future__ import annotations

import copy
import pickle
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import zokern
from tests.optim.problems import EPS, LR, Bowl, same, values
from zokern.optim import MeZO, QuerySchedule

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "lr-negative": ({"lr": -1e-3}, r"lr must be a number >= 0, got -0.001"),
    "lr-nan": ({"lr": float("nan")}, r"lr must be a number >= 0, got nan"),
    "lr-text": ({"lr": "fast"}, r"lr must be a number, got 'fast'"),
    "eps-zero": ({"eps": 0.0}, r"eps must be a number > 0, got 0.0"),
    "eps-infinite": ({"eps": float("inf")}, r"eps must be a number > 0, got inf"),
    "no-queries": ({"num_queries": 0}, r"num_queries must be an integer >= 1, got 0"),
    "half-a-query": ({"num_queries": 1.5}, r"num_queries must be an integer >= 1, got 1.5"),
    "weight-decay": ({"weight_decay": -0.1}, r"weight_decay must be a number >= 0, got -0.1"),
    "momentum": ({"momentum": 1.0}, r"momentum must be a number >= 0 and < 1, got 1.0"),
    "window": ({"momentum_window": 0}, r"momentum_window must be an integer >= 1, got 0"),
    "restore": ({"restore": "quick"}, r"restore must be one of .*'snapshot', got 'quick'"),
    "rounding": ({"rounding": "up"}, r"rounding must be one of .*, got 'up'"),
    "distribution": ({"distribution": "cauchy"}, r"distribution must be one of .*, got 'cauchy'"),
    "seed-negative": ({"seed": -1}, r"seed must be in \[0, 2\*\*64\), got -1"),
    "seed-large": ({"seed": 2**64}, r"seed must be in \[0, 2\*\*64\), got 18446744073709551616"),
}


@pytest.mark.parametrize("options, message", REFUSED.values(), ids=REFUSED.keys())
def test_refuses_options_and_names_the_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MeZO(Bowl(), **options)


def test_param_groups_are_checked_too() -> None:
    model = Bowl()
    with pytest.raises(ValueError, match=r"eps must be a number > 0, got -1"):
        MeZO([{"params": model.parameters(), "eps": -1}])


def test_refuses_parameters() -> None:
    weight, frozen = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4), requires_grad=False)
    with pytest.raises(ValueError, match="params is empty"):
        MeZO([])
    with pytest.raises(ValueError, match=r"no trainable parameter \(none requires grad\)"):
        MeZO([frozen])
    with pytest.raises(ValueError, match=r"params\[1\] is the same tensor as params\[0\]"):
        MeZO([weight, weight])
    with pytest.raises(ValueError, match=r"appear in more than one parameter group"):
        MeZO([{"params": [weight]}, {"params": [weight]}])
    with pytest.raises(TypeError, match=r"params\[0\] has dtype torch.complex64; supported: "):
        MeZO([nn.Parameter(torch.ones(4, dtype=torch.complex64))])
    with pytest.raises(TypeError, match="must be a tensor, got int"):
        MeZO([3])
    with pytest.raises(TypeError, match="must be a module or an iterable of tensors, got a Tensor"):
        MeZO(weight)
    with pytest.raises(TypeError, match="ordered"):
        MeZO({weight})
    with pytest.raises(ValueError, match="param group 1 must be a dict with 'params'"):
        MeZO([{"params": [weight]}, {"parameters": []}])
    halves = torch.ones(8)
    with pytest.raises(ValueError, match=r"a and b overlap in memory"):
        MeZO([("a", nn.Parameter(halves[:5])), ("b", nn.Parameter(halves[3:]))])


def test_every_way_to_pass_parameters_moves_alike() -> None:
    results = []
    for way in (
        lambda m: m,
        lambda m: m.parameters(),
        lambda m: list(m.parameters()),
        lambda m: m.named_parameters(),
        lambda m: [{"params": m.parameters()}],
        lambda m: [{"params": list(m.named_parameters())}],
        lambda m: ({"params": [p]} for p in m.parameters()),
    ):
        model = Bowl()
        optimizer = MeZO(way(model), LR, EPS)
        optimizer.step(model)
        results.append(values(model))
    assert all(same(result, results[0]) for result in results)


def test_the_nth_trainable_draws_from_stream_n() -> None:
    """Frozen parameters take no stream: adding one to a model leaves the others' noise."""
    weights = [nn.Parameter(torch.zeros(9)) for _ in range(3)]
    weights[1].requires_grad_(False)
    optimizer = MeZO(weights, LR, 1.0)
    seen: list[list[torch.Tensor]] = []
    optimizer.step(lambda: seen.append([w.detach().clone() for w in weights]) or 0.0)
    seed = zokern.derive_seed(0, 0)
    assert torch.equal(seen[0][0], zokern.normal(9, seed, stream=0))
    assert torch.equal(seen[0][1], torch.zeros(9))
    assert torch.equal(seen[0][2], zokern.normal(9, seed, stream=1))


def test_one_memory_under_two_parameters_is_moved_once() -> None:
    """As lm_head.weight = nn.Parameter(embed.weight.data) ties two objects."""
    weight = nn.Parameter(torch.ones(4))
    alias = nn.Parameter(weight.data)
    optimizer = MeZO([weight, alias], LR, EPS)
    assert len(optimizer.trainables) == 1
    optimizer.step(lambda: weight.square().sum())
    assert torch.equal(weight, alias)


def test_adding_a_group_goes_on_with_the_next_streams() -> None:
    model = Bowl()
    optimizer = MeZO([model.first], LR, EPS)
    optimizer.step(model)
    optimizer.add_param_group({"params": [model.second], "lr": 0.5})
    before = values(model)
    optimizer.step(model)
    assert len(optimizer.trainables) == 2
    assert not torch.equal(model.second, before[1])
    with pytest.raises(ValueError, match="lr must be a number >= 0, got -1"):
        optimizer.add_param_group({"params": [model.inner.weight], "lr": -1})


SCALARS: list[Any] = [
    3, 3.0, np.float32(3), np.array(3.0), torch.tensor(3.0), torch.tensor([3]),
    torch.tensor(3.0, dtype=torch.bfloat16), torch.tensor([[3.0]], requires_grad=True), True + 2,
]  # fmt: skip


@pytest.mark.parametrize("value", SCALARS, ids=lambda v: f"{type(v).__name__}-{v}")
def test_any_scalar_is_a_loss(value: Any) -> None:
    assert MeZO(Bowl(), LR, EPS).step(lambda: value) == 3.0


@pytest.mark.parametrize(
    "value, error, message",
    [
        (torch.ones(2, 3), ValueError, r"scalar loss, got shape \(2, 3\)"),
        (np.zeros(0), ValueError, r"scalar loss, got shape \(0,\)"),
        (None, TypeError, "scalar loss, got None"),
        ("low", TypeError, "scalar loss, got 'low'"),
        (1j, TypeError, "scalar loss, got 1j"),
        (torch.tensor(1j), TypeError, "scalar loss"),
    ],
    ids=["tensor", "empty", "None", "text", "complex", "complex-tensor"],
)
def test_what_is_no_scalar_is_refused(value: Any, error: type[Exception], message: str) -> None:
    model = Bowl()
    start = values(model)
    with pytest.raises(error, match=message):
        MeZO(model, LR, EPS, restore="snapshot").step(lambda: value)
    assert same(values(model), start)


def test_a_step_needs_a_closure() -> None:
    with pytest.raises(TypeError, match="needs a closure that returns the loss, got None"):
        MeZO(Bowl()).step()  # type: ignore[call-arg]


def test_the_closure_runs_without_gradients_and_leaves_grad_mode() -> None:
    model = Bowl()
    optimizer = MeZO(model, LR, EPS)
    modes = []
    optimizer.step(lambda: modes.append(torch.is_grad_enabled()) or model())
    assert modes == [False, False]
    assert torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("restore", ["inplace", "exact", "snapshot"])
def test_a_step_may_run_in_inference_mode(restore: str) -> None:
    """Buffers made there must serve outside, and those made outside there."""
    model, twin = Bowl(), Bowl()
    optimizer, reference = (
        MeZO(model, LR, EPS, restore=restore),
        MeZO(twin, LR, EPS, restore=restore),
    )
    for inside in (True, False, True):
        with torch.inference_mode(inside):
            optimizer.step(model)
        reference.step(twin)
    assert same(values(model), values(twin))
    model().backward()


def test_global_random_state_is_neither_read_nor_set() -> None:
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        for options in ({}, {"restore": "exact"}, {"momentum": 0.9}, {"rounding": "stochastic"}):
            model = Bowl(torch.bfloat16)
            MeZO(model, LR, EPS, **options).step(model)
            results.append(values(model))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    half = len(results) // 2
    assert all(same(a, b) for a, b in zip(results[:half], results[half:]))


def test_two_seeds_walk_two_ways_and_one_seed_one() -> None:
    def run(seed: int) -> list[torch.Tensor]:
        model = Bowl()
        MeZO(model, LR, EPS, seed=seed).step(model)
        return values(model)

    assert same(run(7), run(7))
    assert not same(run(7), run(8))


def test_the_record_and_counters_of_a_step() -> None:
    model = Bowl()
    optimizer = MeZO(model, LR, EPS, num_queries=2, weight_decay=0.5)
    loss = optimizer.step(model)
    last = optimizer.last
    assert last.step == 0 and not last.skipped
    assert loss == pytest.approx(sum(last.losses) / 4)
    seeds = [zokern.derive_seed(0, 0, q) for q in range(2)]
    for seed, (plus, minus) in zip(seeds, (last.losses[:2], last.losses[2:])):
        assert last.projected_grads[seed] == pytest.approx((plus - minus) / (2 * EPS))
    ((decay, terms),) = last.commits
    assert decay == [1 - LR * 0.5]
    assert terms == {s: [pytest.approx(-LR * last.projected_grads[s] / 2)] for s in seeds}
    assert (optimizer.steps, optimizer.num_evaluations) == (1, 4)
    optimizer.step(model)
    assert (optimizer.steps, optimizer.num_evaluations, optimizer.last.step) == (2, 8, 1)


@pytest.mark.parametrize("restore", ["inplace", "exact"])
def test_time_is_split_between_closure_and_the_rest(restore: str) -> None:
    """Hooks run within the closure, but their time is the optimizer's."""
    model = Bowl()
    optimizer = MeZO(model, LR, EPS, restore=restore)
    started = time.perf_counter()
    optimizer.step(lambda: time.sleep(0.05) or model())
    whole = time.perf_counter() - started
    assert 0.0 < optimizer.seconds_outside_closure <= whole - 0.1 + 1e-3


def test_query_schedules_follow_the_epoch() -> None:
    model = Bowl()
    schedule = QuerySchedule(alpha=1.0, beta=1.0, q_max=3)
    optimizer = MeZO(model, LR, EPS, num_queries=schedule)
    with pytest.raises(ValueError, match=r"call optimizer.set_epoch\(epoch\)"):
        optimizer.step(model)
    evaluations = []
    for epoch in (0, 1, 2, 3, 9):
        optimizer.set_epoch(epoch)
        optimizer.step(model)
        evaluations.append(len(optimizer.last.losses) // 2)
    assert evaluations == [1, 1, 2, 3, 3]
    counted = MeZO(model, LR, EPS, num_queries=QuerySchedule(1.0, 1.0, 9, steps_per_epoch=2))
    evaluations = [counted.step(model) and len(counted.last.losses) // 2 for _ in range(8)]
    assert evaluations == [1, 1, 1, 1, 2, 2, 3, 3]


def test_a_replayed_step_must_fit_its_log() -> None:
    model = Bowl()
    start = values(model)
    optimizer = MeZO(model, LR, EPS, restore="snapshot")
    with pytest.raises(ValueError, match="log of step 0 has too few losses"):
        optimizer.replay_step([1.0])
    assert same(values(model), start) and optimizer.steps == 0
    with pytest.raises(ValueError, match="log of step 0 has 1 losses too many"):
        optimizer.replay_step([1.0, 1.5, 2.0])


def test_state_of_another_optimizer_is_refused() -> None:
    model = Bowl()
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"state_dict is of a torch\.optim optimizer, not of MeZO"):
        MeZO(model).load_state_dict(plain.state_dict())
    state = MeZO([model.first]).state_dict()
    with pytest.raises(ValueError, match="doesn't match the size"):
        MeZO(model).load_state_dict(state)


def test_fp32_momentum_of_16_bit_weights_stays_fp32_through_a_state_dict() -> None:
    """torch.optim would cast it to the parameter's dtype, and the continued run would differ."""
    model, again = Bowl(torch.bfloat16), Bowl(torch.bfloat16)
    optimizer = MeZO(model, LR, EPS, momentum=0.9)
    optimizer.step(model)
    resumed = MeZO(again, LR, EPS, momentum=0.9)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again.load_state_dict(model.state_dict())
    for p, q in zip(model.parameters(), again.parameters()):
        kept = resumed.state[q]["momentum_buffer"]
        assert kept.dtype == torch.float32
        assert torch.equal(kept, optimizer.state[p]["momentum_buffer"])
        assert kept.data_ptr() != optimizer.state[p]["momentum_buffer"].data_ptr()


def test_an_optimizer_is_neither_copied_nor_pickled() -> None:
    optimizer = MeZO(Bowl())
    for copying in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="tied to its model and cannot be copied or pickled"):
            copying(optimizer)


def test_the_docstring_example_runs_and_learns() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    x, y = torch.randn(64, 4), torch.randn(64, 1)
    optimizer = zokern.optim.MeZO(model, lr=1e-2)
    losses = [optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y)) for _ in range(100)]
    assert losses[-1] < losses[0]


def test_eps_may_differ_between_groups() -> None:
    """Each group's estimate is along its own displacement: the update does not depend on eps on a
    linear loss."""
    a, b = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(5))
    optimizer = MeZO([{"params": [a], "eps": 0.5}, {"params": [b], "eps": 0.125}], lr=1.0)
    optimizer.step(lambda: a.sum())
    seed = zokern.derive_seed(0, 0)
    za, zb = zokern.normal(5, seed, stream=0), zokern.normal(5, seed, stream=1)
    torch.testing.assert_close(a.detach(), -za.sum() * za)
    torch.testing.assert_close(b.detach(), -4 * za.sum() * zb)  # delta is a's; over b's eps
