"""AdaZeta: its formula, its schedule, and the two ways of evaluating queries."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zokern
from tests.nn.families import make, tokens
from zokern.nn import TTAdapter, TTLinear, add_tt_adapters, pack
from zokern.optim import AdaZeta, MeZO, QuerySchedule

LABELS = torch.tensor([3, 5, 7])


def tt_model() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Linear(16, 24),
        TTAdapter(24, 8, 3, init="gaussian", generator=generator),
        nn.ReLU(),
        TTLinear(24, 4, 3, generator=generator),
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(24, 16, generator=generator))
        model[0].bias.zero_()
    model[0].requires_grad_(False)
    pack(model)
    return model


X = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] > 0).long() + 2 * (X[:, 1] > 0).long()


def loss_of(model: nn.Module) -> Callable[[], torch.Tensor]:
    return lambda: F.cross_entropy(model(X), Y)


def weights(model: nn.Module) -> torch.Tensor:
    return model.tt_parameters.flat.detach().clone()


def test_schedule_of_the_paper_at_its_check_row() -> None:
    """D = 1000, B = 16, 5 000 steps: 63 steps an epoch."""
    optimizer = AdaZeta(nn.Linear(2, 2), steps_per_epoch=-(-1000 // 16))
    seen = []
    for epoch in (0, 1, 2, 5, 10, 20, 40, 79):
        for step in (63 * epoch, 63 * epoch + 62):  # the whole epoch
            optimizer._steps = step
            seen.append(optimizer.queries())
    assert seen[::2] == seen[1::2] == [1, 1, 1, 1, 2, 3, 4, 6]


def test_update_is_the_mean_of_two_sided_estimates() -> None:
    model = tt_model()
    start, eps, lr, decay = weights(model), 1e-3, 0.05, 0.1
    values = []
    optimizer = AdaZeta(model, lr=lr, eps=eps, schedule=3, weight_decay=decay, seed=5, restore="snapshot")
    reported = optimizer.step(lambda: values.append(float(loss_of(model)())) or values[-1])
    estimate = torch.zeros_like(start)
    for query in range(3):
        z = zokern.normal(start.shape, zokern.derive_seed(5, 0, query))
        estimate += (values[2 * query] - values[2 * query + 1]) / (2 * eps) * z / 3
    expected = (1 - lr * decay) * start - lr * estimate
    assert torch.allclose(weights(model), expected, atol=1e-6)
    assert reported == pytest.approx(sum(values) / 6)
    assert optimizer.num_evaluations == 6


def test_is_mezo_with_as_many_queries() -> None:
    trajectories = []
    for kind, options in ((AdaZeta, {"schedule": 4}), (MeZO, {"num_queries": 4})):
        model = tt_model()
        optimizer = kind(model, lr=0.02, eps=1e-3, restore="snapshot", weight_decay=0.01, **options)
        for _ in range(5):
            optimizer.step(loss_of(model))
        trajectories.append(weights(model))
    assert torch.equal(*trajectories)


def test_queries_grow_with_the_epoch() -> None:
    model = tt_model()
    optimizer = AdaZeta(model, steps_per_epoch=2, schedule=QuerySchedule(1.0, 1.0, q_max=3))
    counts = []
    for _ in range(10):
        before = optimizer.num_evaluations
        optimizer.step(loss_of(model))
        counts.append((optimizer.num_evaluations - before) // 2)
    assert counts == [1, 1, 1, 1, 2, 2, 3, 3, 3, 3]


def test_without_steps_per_epoch_the_epoch_must_be_told() -> None:
    model = tt_model()
    optimizer = AdaZeta(model, schedule=QuerySchedule(1.0, 1.0))
    with pytest.raises(ValueError, match="set_epoch"):
        optimizer.step(loss_of(model))
    optimizer.set_epoch(4)
    optimizer.step(loss_of(model))
    assert len(optimizer.last.losses) == 8


@pytest.mark.parametrize("evaluation", ["loop", "batched"])
@pytest.mark.parametrize("restore", ["auto", "snapshot"])
def test_trains(evaluation: str, restore: str) -> None:
    model = tt_model()
    optimizer = AdaZeta(model, lr=5e-3, eps=1e-3, schedule=4, evaluation=evaluation, restore=restore, seed=3)
    first = loss_of(model)().item()
    for _ in range(120):
        optimizer.step(loss_of(model))
    assert loss_of(model)().item() < 0.75 * first


class TestParallel:
    @pytest.mark.parametrize("max_parallel", [None, 3])
    @pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
    def test_losses_are_the_loops_to_rounding(self, max_parallel: int | None, distribution: str) -> None:
        seen, ids = [], tokens()
        for evaluation, most in (("loop", None), ("batched", max_parallel)):
            model = make("llama")
            flat = add_tt_adapters(model, 8, 3, bias=True, init="gaussian").flat
            with torch.no_grad():
                flat.copy_(0.3 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(1)))
            optimizer = AdaZeta(
                model, eps=1e-2, schedule=4, evaluation=evaluation, max_parallel=most,
                distribution=distribution,
            )  # fmt: skip
            optimizer.step(lambda model=model: F.cross_entropy(model(ids).logits[:, -1], LABELS))
            seen.append(optimizer.last.losses)
        assert len(seen[0]) == 8 and max(seen[0]) - min(seen[0]) > 1e-3
        assert seen[1] == pytest.approx(seen[0], abs=2e-6)

    @pytest.mark.filterwarnings("ignore:lazy=True is given up")  # closures without a model
    @pytest.mark.parametrize("lazy", [False, True])
    @pytest.mark.parametrize("decay", [0.0, 0.1])
    def test_equal_losses_give_equal_bits(self, lazy: bool, decay: float) -> None:
        """Looped, in parallel, replayed, and in parallel with a closure that needs no model: at first use
        that is called for all points three times, for its losses are compared with the loop's."""
        options: dict[str, Any] = {
            "lr": 5e-3, "schedule": 3, "weight_decay": decay, "lazy": lazy, "restore": "snapshot",
        }  # fmt: skip
        start = tt_model()
        loop = copy.deepcopy(start)
        optimizer = AdaZeta(loop, **options)
        logged = []
        for _ in range(4):
            optimizer.step(loss_of(loop))
            logged.append(list(optimizer.last.losses))
        optimizer.flush()
        assert not torch.equal(weights(loop), weights(start))
        for evaluation in ("loop", "batched"):
            replayed, handed = copy.deepcopy(start), copy.deepcopy(start)
            again = AdaZeta(replayed, **options, evaluation=evaluation)
            fed = AdaZeta(handed, **options, evaluation=evaluation)
            for losses in logged:
                again.replay_step(losses)
                values = itertools.cycle(losses)
                fed.step(lambda values=values: next(values))
            again.flush()
            fed.flush()
            assert torch.equal(weights(replayed), weights(loop))
            assert torch.equal(weights(handed), weights(loop))

    def test_stored_parameters_are_never_written_in_a_step_of_probes(self) -> None:
        model = tt_model()
        optimizer = AdaZeta(model, schedule=2, evaluation="batched")
        start, versions = weights(model), []
        optimizer.step(lambda: versions.append(weights(model)) or loss_of(model)())
        assert len(versions) == 12 and all(torch.equal(v, start) for v in versions[:4] + versions[8:])
        assert not torch.equal(weights(model), start)

    def test_an_error_in_the_closure_changes_nothing(self) -> None:
        model = tt_model()
        optimizer = AdaZeta(model, schedule=2, evaluation="batched")
        start, calls = weights(model), []

        def closure() -> torch.Tensor:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return loss_of(model)()

        with pytest.raises(KeyboardInterrupt):
            optimizer.step(closure)
        assert torch.equal(weights(model), start)
        assert torch.isfinite(loss_of(model)()) and "forward" not in model.__dict__
        optimizer.step(loss_of(model))

    def test_pending_update_is_landed_before_the_copies_are_made(self) -> None:
        model = tt_model()
        optimizer = AdaZeta(model, lr=5e-3, schedule=2, evaluation="batched")
        for _ in range(3):
            optimizer.step(loss_of(model))
        expected = weights(model)
        optimizer.commit({5: 1e-3})  # as a subclass may, between steps
        optimizer.step(lambda: 1.0)  # equal losses: the step itself commits nothing
        zokern.perturb_(start := expected.clone(), 5, 1e-3)
        assert torch.equal(weights(model), start)

    def test_param_groups_have_their_own_scale_and_rate(self) -> None:
        results = []
        for evaluation in ("loop", "batched"):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(16, 24), nn.Tanh(), TTLinear(24, 4, 3))
            with torch.no_grad():
                model[2].flat.copy_(
                    torch.randn(model[2].flat.shape, generator=torch.Generator().manual_seed(1))
                )
            groups = [
                {"params": [model[0].weight], "eps": 1e-2},
                {"params": [model[2].flat], "lr": 0.0},
            ]
            model[0].bias.requires_grad_(False)
            optimizer = AdaZeta(
                groups, lr=0.05, schedule=2, evaluation=evaluation, restore="snapshot", module=model
            )
            start = model[2].flat.detach().clone()
            optimizer.step(loss_of(model))
            results.append(optimizer.last.losses)
            assert torch.equal(model[2].flat, start)
        assert results[1] == pytest.approx(results[0], abs=2e-6)

    def test_state_round_trip_mid_run(self) -> None:
        model = tt_model()
        options: dict[str, Any] = {
            "lr": 5e-3, "schedule": QuerySchedule(1.0, 1.0), "steps_per_epoch": 2,
            "evaluation": "batched",
        }  # fmt: skip
        optimizer = AdaZeta(model, **options)
        for _ in range(3):
            optimizer.step(loss_of(model))
        twin = copy.deepcopy(model)
        other = AdaZeta(twin, **{**options, "lr": 1.0})
        other.load_state_dict(optimizer.state_dict())
        for _ in range(3):
            assert optimizer.step(loss_of(model)) == other.step(loss_of(twin))
        assert torch.equal(weights(model), weights(twin))


def test_schedule_works_with_other_optimizers() -> None:
    model = tt_model()
    optimizer = MeZO(model, num_queries=QuerySchedule(1.0, 1.0, steps_per_epoch=1))
    counts = []
    for _ in range(4):
        optimizer.step(loss_of(model))
        counts.append(len(optimizer.last.losses))
    assert counts == [2, 2, 4, 6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluation": "both"}, "evaluation must be one of 'loop', 'batched', got 'both'"),
        ({"max_parallel": 0}, "max_parallel must be an integer >= 1, got 0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be an integer >= 1, got 0"),
        ({"schedule": 0}, "schedule must be an integer >= 1, got 0"),
        ({"lr": -1.0}, "lr must be a number >= 0, got -1.0"),
        ({"evaluation": "batched", "restore": "inplace"}, "restore must be 'auto' or 'snapshot'"),
    ],
)
def test_rejects_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaZeta(tt_model(), **options)


def test_parallel_needs_the_module() -> None:
    with pytest.raises(ValueError, match="needs the module, whose forward it batches"):
        AdaZeta(tt_model().parameters(), evaluation="batched")


def test_parallel_says_at_once_what_cannot_have_copies() -> None:
    with pytest.raises(ValueError, match=r"0 \(Conv1d\) is trained"):
        AdaZeta(nn.Sequential(nn.Conv1d(1, 1, 1)), evaluation="batched")


def test_small_trainables_are_restored_from_a_copy() -> None:
    model = make("llama")
    add_tt_adapters(model, 4, 1, bias=False)
    assert AdaZeta(model).restore == "snapshot"
    assert AdaZeta(make("llama")).restore == "inplace"
    assert AdaZeta(model, restore="inplace").restore == "inplace"
