"""One battery for all optimizers: a new one is a row of `rows.ROWS`."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import Backend
from tests.optim.combinations import ROWS
from tests.optim.problems import EPS, LR, RESTORES, Method, same, values
from zokern import use_backend
from zokern.optim import QuerySchedule, ZerothOrderOptimizer

methods = pytest.mark.parametrize("method", ROWS.values(), ids=ROWS.keys())
WITH_QUERIES = {name: method for name, method in ROWS.items() if name != "ZO-SVRG"}  # that has samples
LOOPED = {name: method for name, method in ROWS.items() if not method.batched}  # any model, any parameters
looped = pytest.mark.parametrize("method", LOOPED.values(), ids=LOOPED.keys())


def with_restores(rows: dict[str, Method], *names: str) -> Any:
    """Each method in each of the restore modes, as far as it runs in them (batched: in one)."""
    return pytest.mark.parametrize(
        ("method", "restore"),
        [
            pytest.param(method, RESTORES[name], id=f"{row}-{name}")
            for name in names or RESTORES
            for row, method in rows.items()
            if not method.batched or RESTORES[name]["restore"] == "snapshot"
        ],
    )


@with_restores(ROWS, "inplace", "exact", "snapshot")
def test_goes_down_on_a_quadratic(method: Method, restore: dict[str, Any]) -> None:
    model = method.problem()
    first = float(model().detach())
    with method.make(model, lr=LR / 4 * method.rate, **restore) as optimizer:
        for _ in range(method.steps):
            optimizer.step(model)
    assert float(model().detach()) < first / method.depth


@with_restores(ROWS)
def test_equals_the_float64_oracle(method: Method, restore: dict[str, Any]) -> None:
    model, exact = method.problem(torch.float64), method.problem(torch.float64)
    start = values(exact)
    weights = [p.detach() for p in exact.parameters()]
    oracle = method.oracle(method.options)

    def loss_at(tensors: Any) -> float:
        kept = values(exact)
        for w, t in zip(weights, tensors):
            w.copy_(t)
        value = float(exact())
        for w, k in zip(weights, kept):
            w.copy_(k)
        return value

    optimizer = method.make(model, **restore)
    with torch.no_grad():
        for t in range(8):
            expected = oracle.step(weights, loss_at, t)
            assert optimizer.step(model) == pytest.approx(expected, rel=1e-6)
    optimizer.flush()
    # coefficients are fp32 numbers: a rounding of 6e-8 each in eps and in g
    for found, expected, begun in zip(model.parameters(), weights, start):
        assert (found - expected).norm() < method.tolerance * (expected - begun).norm()


@methods
def test_first_losses(method: Method) -> None:
    model = method.problem()
    optimizer = method.make(model)
    losses = [optimizer.step(model) for _ in range(4)]
    assert losses == pytest.approx(method.golden, rel=1e-5)


@methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_moves_alike_on_every_backend(method: Method, dtype: torch.dtype, backend: Backend) -> None:
    def run(device: str) -> list[Tensor]:
        model = method.problem(dtype, device)
        optimizer = method.make(model, restore="snapshot" if method.batched else "inplace")
        interpreted = 2 if dtype == torch.bfloat16 else 1  # steps of seconds
        for t in range(interpreted if backend.interpreted else 4):
            optimizer.replay_step(method.log(t, 0.01))
        return values(model)

    found = run(backend.device)
    with use_backend("reference"):
        assert same(found, run("cpu"))


@with_restores(ROWS)
def test_state_round_trip_continues_bit_for_bit(method: Method, restore: dict[str, Any]) -> None:
    model = method.problem()
    optimizer = method.make(model, **restore)
    for _ in range(3):
        optimizer.step(model)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    expected = [optimizer.step(model) for _ in range(3)]
    optimizer.flush()

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = method.problem()
    resumed = method.make(again, **{**restore, "seed": 5})
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    assert [resumed.step(again) for _ in range(3)] == expected
    resumed.flush()
    assert same(values(again), values(model))
    assert resumed.steps == optimizer.steps
    assert resumed.num_evaluations == optimizer.num_evaluations


@with_restores(ROWS)
def test_replay_from_logged_losses_repeats_the_moves(method: Method, restore: dict[str, Any]) -> None:
    model, again = method.problem(), method.problem()
    optimizer, replayed = method.make(model, **restore), method.make(again, **restore)
    for _ in range(4):
        returned = optimizer.step(model)
        assert replayed.replay_step(optimizer.last.losses) == returned
    optimizer.flush()
    replayed.flush()
    assert same(values(again), values(model))
    assert optimizer.step(model) == replayed.step(again)


@with_restores(ROWS)
def test_param_groups_have_their_own_rate(method: Method, restore: dict[str, Any]) -> None:
    model, alone = method.problem(), method.problem()
    first, *rest = model.parameters()
    groups = [{"params": [first], "lr": 0.0}, {"params": rest}]
    before = values(model)
    optimizer = method.make(groups, module=model, **restore)
    plain = method.make(alone, **restore)
    optimizer.step(model)
    plain.step(alone)
    optimizer.flush()
    plain.flush()
    drift = 0.0 if restore["restore"] != "inplace" else 1e-6
    assert (first - before[0]).abs().max() <= drift
    # same streams, same losses: the other tensors move as with one group
    for found, expected in zip(rest, list(alone.parameters())[1:]):
        torch.testing.assert_close(found, expected)


class Tied(nn.Module):
    """Two names and two modules for one weight, one frozen weight, one unused buffer."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = nn.Embedding(6, 4, dtype=dtype)
        self.head = nn.Linear(4, 6, bias=False, dtype=dtype)
        self.scale = nn.Parameter(torch.ones(4, dtype=dtype), requires_grad=False)
        with torch.no_grad():
            self.embed.weight.copy_(torch.randn(6, 4, generator=generator))
        self.head.weight = self.embed.weight

    def forward(self) -> Tensor:
        tokens = torch.arange(6)
        logits = self.head(self.embed(tokens) * self.scale).float()
        return nn.functional.cross_entropy(logits, tokens.flip(0))


@with_restores(LOOPED)
def test_tied_and_frozen_parameters(method: Method, restore: dict[str, Any]) -> None:
    model = Tied()
    first = float(model().detach())
    optimizer = method.make(model, lr=LR * method.rate, **restore)
    assert len(optimizer.trainables) == 1
    for _ in range(method.steps // 5):
        optimizer.step(model)
    optimizer.flush()
    assert float(model().detach()) < first * max(0.7, 1 / method.depth)
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.scale, torch.ones(4))


@methods
@pytest.mark.parametrize(  # the two agree bit for bit: test_engine.py
    ("dtype", "restore"), [(torch.bfloat16, "exact"), (torch.float16, "snapshot")], ids=["bf16", "fp16"]
)
def test_sixteen_bits(method: Method, dtype: torch.dtype, restore: str) -> None:
    model = method.problem(dtype)
    restore = "snapshot" if method.batched else restore
    optimizer = method.make(model, lr=LR / 4 * method.rate, restore=restore)
    first = float(model().detach())
    for _ in range(method.steps):
        optimizer.step(model)
    assert float(model().detach()) < first / min(10, method.depth)
    assert all(p.dtype == dtype for p in model.parameters())


@looped
def test_small_updates_to_bf16_weights_arrive(method: Method) -> None:
    """Round-to-nearest would lose every one of them: an update is 1/40 of a bf16 step at 1.0."""
    weight = nn.Parameter(torch.full((4096,), 1.0, dtype=torch.bfloat16))
    moved = {}
    for rounding in ("stochastic", "nearest"):
        with torch.no_grad():
            weight.fill_(1.0)
        options = {} if method.gaussian else {"distribution": "rademacher"}
        optimizer = method.make([weight], lr=1e-4, rounding=rounding, **options)
        for t in range(20):
            optimizer.replay_step(method.log(t, EPS))
        moved[rounding] = (weight.detach().double() - 1.0).abs().mean().item()
    assert moved["stochastic"] > 1e-4
    if not method.options.get("weight_decay"):
        assert moved["nearest"] < moved["stochastic"] / 20


@methods
def test_learning_rate_schedulers(method: Method) -> None:
    model, manual = method.problem(), method.problem()
    optimizer, plain = method.make(model), method.make(manual)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    for t in range(4):
        plain.param_groups[0]["lr"] = LR * 0.5**t
        assert optimizer.step(model) == plain.step(manual)
        scheduler.step()
    assert same(values(model), values(manual))


@methods
def test_any_scalar_is_a_loss(method: Method) -> None:
    found = []
    for scalar in (float, lambda loss: loss, lambda loss: loss.reshape(1, 1), lambda loss: np.float64(loss)):
        model = method.problem()
        optimizer = method.make(model)
        found.append([optimizer.step(lambda: scalar(model().detach())) for _ in range(4)])  # noqa: B023
    assert all(losses == found[0] for losses in found)


@methods
def test_goes_down_where_there_is_no_gradient(method: Method) -> None:
    """A staircase: the closure returns the loss in whole quarters."""
    model = method.problem()
    optimizer = method.make(model, lr=LR / 4 * method.rate, eps=0.1)
    first = float(model().detach())
    for _ in range(method.steps):
        optimizer.step(lambda: math.floor(4 * model()) / 4)
    assert float(model().detach()) < first / min(5, method.depth)


@pytest.mark.parametrize("method", WITH_QUERIES.values(), ids=WITH_QUERIES.keys())
def test_query_schedules(method: Method) -> None:
    model, again = method.problem(), method.problem()
    schedule = QuerySchedule(alpha=1.0, beta=1.0, q_max=3, steps_per_epoch=2)
    optimizer = method.make(model, num_queries=schedule)
    told = method.make(again, num_queries=QuerySchedule(alpha=1.0, beta=1.0, q_max=3))
    queries = []
    for t in range(10):
        told.set_epoch(t // 2)
        assert optimizer.step(model) == told.step(again)
        queries.append(len(optimizer.last.projected_grads))
    assert queries == [1, 1, 1, 1, 2, 2, 3, 3, 3, 3]
    assert same(values(model), values(again))


@with_restores(ROWS, "inplace", "exact", "snapshot")
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_loss_leaves_weights_and_state(
    method: Method, restore: dict[str, Any], bad: float
) -> None:
    model = method.problem()
    optimizer = method.make(model, **restore)
    for _ in range(3):
        optimizer.step(model)
    weights, before = values(model), state_of(optimizer)
    with pytest.warns(RuntimeWarning, match="step 3 is skipped"):
        optimizer.step(lambda: bad)
    for found, expected in zip(values(model), weights):
        torch.testing.assert_close(
            found, expected, rtol=0, atol=1e-6 if restore["restore"] == "inplace" else 0
        )
    assert same(state_of(optimizer), before)
    assert (optimizer.steps, optimizer.skipped_steps) == (4, 1)
    optimizer.step(model)
    assert not same(values(model), weights)


@with_restores(ROWS, "inplace", "exact", "snapshot")
def test_an_exception_in_the_closure_leaves_weights_and_state(
    method: Method, restore: dict[str, Any]
) -> None:
    model = method.problem()
    optimizer = method.make(model, **restore)
    for _ in range(3):
        optimizer.step(model)
    weights, before, calls = values(model), state_of(optimizer), []

    def fails() -> Tensor:
        calls.append(model())
        if len(calls) == 2:
            raise KeyboardInterrupt
        return calls[0]

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(fails)
    for found, expected in zip(values(model), weights):
        torch.testing.assert_close(
            found, expected, rtol=0, atol=1e-6 if restore["restore"] == "inplace" else 0
        )
    assert same(state_of(optimizer), before)


def state_of(optimizer: ZerothOrderOptimizer) -> list[Tensor]:
    """Copies of all state: tensors and counts."""
    numbers = [value for state in optimizer.state.values() for value in state.values()]
    return [torch.as_tensor(value).reshape(-1).clone() for value in numbers]
