"""The engine: fewest passes, any points, weights that are the user's between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zokern
from tests.optim.conftest import Passes
from tests.optim.problems import EPS, LR, RESTORES, Bowl, same, values
from zokern.optim import MeZO, ZerothOrderOptimizer
from zokern.optim.moves import Pass

ELEMENTS = 3 * 5 + 7 + 9
restores = pytest.mark.parametrize("restore", RESTORES.values(), ids=RESTORES.keys())


# -- passes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [1, 2, 5])
@pytest.mark.parametrize("one_sided", [False, True], ids=["two-sided", "one-sided"])
@pytest.mark.parametrize("lazy", [False, True], ids=["landed", "lazy"])
def test_passes_of_a_step(passes: Passes, queries: int, one_sided: bool, lazy: bool) -> None:
    """Two-sided: 2Q + 1 passes, 2Q when lazy. One-sided: Q + 1 either way, for the base loss needs
    the weights themselves."""
    model = Bowl()
    optimizer = MeZO(model, LR, EPS, num_queries=queries, one_sided=one_sided, weight_decay=0.1, lazy=lazy)
    optimizer.step(model)
    passes.clear()
    steps = 3
    for _ in range(steps):
        optimizer.step(model)
    expected = queries + 1 if one_sided else 2 * queries + (not lazy)
    assert passes.count == steps * expected
    assert passes.elements == steps * expected * ELEMENTS


def test_normals_of_a_step(passes: Passes) -> None:
    """One normal an element and pass while one direction is on the way."""
    model = Bowl()
    optimizer = MeZO(model, LR, EPS)
    optimizer.step(model)
    assert [seeds for _, seeds, _ in passes.calls] == [1, 1, 1]
    lazy = MeZO(model, LR, EPS, lazy=True)
    lazy.step(model)
    passes.clear()
    lazy.step(model)
    assert [seeds for _, seeds, _ in passes.calls] == [2, 1]


@pytest.mark.parametrize("lazy, expected", [(False, 3), (True, 3)], ids=["landed", "lazy"])
def test_passes_of_a_step_with_a_snapshot(passes: Passes, lazy: bool, expected: int) -> None:
    """Two probes and the update. Lazy spares the copy that begins a step, which is no pass."""
    model = Bowl()
    optimizer = MeZO(model, LR, EPS, restore="snapshot", lazy=lazy)
    optimizer.step(model)
    passes.clear()
    optimizer.step(model)
    assert passes.count == expected
    assert passes.elements == expected * ELEMENTS


def test_passes_of_an_exact_step(passes: Passes) -> None:
    """A call a module and probe, and one call for the update; as many elements as with a snapshot."""
    model = Bowl()
    optimizer = MeZO(model, LR, EPS, restore="exact")
    optimizer.step(model)
    passes.clear()
    optimizer.step(model)
    assert passes.count == 2 * 2 + 1
    assert passes.elements == 3 * ELEMENTS


def test_dense_momentum_costs_one_pass_over_its_buffer(passes: Passes) -> None:
    model = Bowl()
    MeZO(model, LR, EPS, momentum=0.9).step(model)
    assert passes.count == 2 + 2


def test_groups_that_agree_share_a_pass(passes: Passes) -> None:
    model = Bowl()
    groups: list[dict[str, Any]] = [{"params": [p]} for p in model.parameters()]
    MeZO(groups, LR, EPS).step(model)
    assert passes.count == 3
    passes.clear()
    groups[0]["weight_decay"] = 0.1
    MeZO(groups, LR, EPS).step(model)
    assert passes.count == 2 + 2  # only the update differs


def test_lr_zero_only_brings_the_weights_back(passes: Passes) -> None:
    model = Bowl()
    MeZO(model, 0.0, EPS, restore="exact").step(model)
    assert passes.elements == 2 * ELEMENTS


def test_sixteen_bit_updates_round_stochastically_and_probes_do_not(passes: Passes) -> None:
    model = Bowl(torch.bfloat16)
    MeZO(model, LR, EPS, restore="snapshot").step(model)
    assert [rounding for _, _, rounding in passes.calls] == ["nearest", "nearest", "stochastic"]
    passes.clear()
    MeZO(model, LR, EPS, restore="inplace", rounding="nearest").step(model)
    assert [rounding for _, _, rounding in passes.calls] == ["nearest"] * 3


class Visits(ZerothOrderOptimizer):
    """Evaluates what it is told to."""

    def __init__(self, params: Any, **options: Any) -> None:
        self.visits: list[dict[int, float]] = []
        self.commits: list[tuple[dict[int, float], float]] = []
        super().__init__(params, {"lr": LR}, eps=EPS, **options)

    def step(self, closure: Callable[[], Any]) -> float:  # type: ignore[override]
        for terms in self.visits:
            self.evaluate(closure, terms)
        for terms, decay in self.commits:
            self.commit(terms, decay)
        return 0.0


@restores
def test_any_points_and_commits_compose(restore: dict[str, Any]) -> None:
    """Walks among points of several directions, as an SVRG snapshot walk does."""
    model = Bowl(torch.float64)
    start = values(model)
    optimizer = Visits(model, **restore)
    optimizer.visits = [{}, {1: 0.5, 2: -0.25}, {1: 0.5}, {}, {3: 1.0, 1: -2.0}]
    optimizer.commits = [({1: 0.125}, 0.5), ({2: 0.25, 1: 1.0}, 0.75), ({}, 2.0)]

    def z(seed: int) -> list[Tensor]:
        return [zokern.normal(w.shape, seed, stream=i).double() for i, w in enumerate(start)]

    seen: list[float] = []
    optimizer.step(lambda: seen.append(float(model().detach())) or 0.0)
    optimizer.flush()
    probe = Bowl(torch.float64)
    with torch.no_grad():
        for value, terms in zip(seen, optimizer.visits):
            for p, w, *noise in zip(probe.parameters(), start, *[z(seed) for seed in terms]):
                p.copy_(w + sum(c * n for c, n in zip(terms.values(), noise)))
            assert value == pytest.approx(float(probe()), rel=1e-12)
        for p, w, z1, z2 in zip(model.parameters(), start, z(1), z(2)):
            expected = 2.0 * (0.75 * (0.5 * w + 0.125 * z1) + 0.25 * z2 + z1)
            torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("restore", ["inplace", "snapshot", "exact"])
def test_commit_then_evaluate_sees_the_commit(restore: str) -> None:
    class Twice(Visits):
        def step(self, closure: Callable[[], Any]) -> float:  # type: ignore[override]
            before = self.evaluate(closure)
            self.commit({1: 0.5})
            return self.evaluate(closure, {2: 0.0}) - before

    model = Bowl(torch.float64)
    optimizer = Twice(model, restore=restore)
    change = optimizer.step(model)
    start = Bowl(torch.float64)
    assert change == pytest.approx(float((model() - start()).detach()), rel=1e-9)


@pytest.mark.parametrize("restore", ["inplace", "snapshot", "exact"])
def test_a_fused_update_starts_from_the_committed_weights(restore: str) -> None:
    class Fused(Visits):
        def step(self, closure: Callable[[], Any]) -> float:  # type: ignore[override]
            self.evaluate(closure, {1: 1.0})

            def halve(work: Pass) -> None:
                self.directions.apply(work)
                torch._foreach_mul_(work.target, 0.5)

            self.update(halve)
            return 0.0

    model = Bowl(torch.float64)
    start = values(model)
    Fused(model, restore=restore).step(model)
    for p, w in zip(model.parameters(), start):
        torch.testing.assert_close(p.detach(), w / 2, rtol=1e-12, atol=1e-12)


# -- between steps ----------------------------------------------------------------------------


@restores
def test_weights_written_by_the_user_between_steps_count(restore: dict[str, Any]) -> None:
    model = Bowl()
    optimizer = MeZO(model, LR, EPS, **restore)
    for _ in range(2):
        optimizer.step(model)
        optimizer.flush()
        with torch.no_grad():
            model.first.fill_(3.0)
    written = values(model)
    loss = optimizer.step(model)
    optimizer.flush()
    assert loss == pytest.approx(float(model().detach()), rel=0.2)
    assert (model.first - written[0]).abs().max() < 2.0
    assert (model.first - written[0]).abs().max() > 0.0


@pytest.mark.parametrize("restore", ["inplace", "exact", "snapshot"])
def test_after_a_step_the_weights_are_the_updated_ones(restore: str) -> None:
    model = Bowl(torch.float64)
    start = values(model)
    optimizer = MeZO(model, LR, EPS, restore=restore)
    optimizer.step(model)
    ((decay, terms),) = optimizer.last.commits
    (seed, coefficients) = next(iter(terms.items()))
    assert decay == [1.0]
    for i, (p, w) in enumerate(zip(model.parameters(), start)):
        z = zokern.normal(w.shape, seed, stream=i).double()
        torch.testing.assert_close(p.detach(), w + coefficients[0] * z, rtol=1e-6, atol=1e-6)


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
def test_exact_and_snapshot_agree_bit_for_bit(device: str) -> None:
    """Two ways to the same perturbed values and the same updates, in 16 bits and lazily too."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        results = []
        for name in ("exact", "snapshot", "snapshot-lazy", "exact-lazy"):
            model = Bowl(dtype, device)
            optimizer = MeZO(model, LR, EPS, weight_decay=0.1, num_queries=2, **RESTORES[name])
            losses = [optimizer.step(model) for _ in range(5)]
            optimizer.flush()
            results.append((losses, values(model)))
        for losses, weights in results[1:]:
            assert losses == results[0][0]
            assert same(weights, results[0][1])


def test_block_coordinates_move_only_their_group(passes: Passes) -> None:
    """A coefficient of zero for a group leaves it alone, in every mode."""
    for restore in ("inplace", "exact", "snapshot"):
        model = Bowl()
        groups = [{"params": [model.first]}, {"params": [model.second, model.inner.weight]}]
        optimizer = Visits(groups, restore=restore, module=model)
        optimizer.visits = [{1: [0.5, 0.0]}, {1: [-0.5, 0.0]}]  # type: ignore[dict-item]
        optimizer.commits = [({1: [0.25, 0.0]}, 1.0)]  # type: ignore[dict-item]
        start = values(model)
        passes.clear()
        optimizer.step(model)
        assert same(values(model)[1:], start[1:])
        assert not same(values(model)[:1], start[:1])
        if restore == "inplace":
            assert passes.elements == 3 * 15


class NoAllocation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("restore", ["inplace", "exact", "snapshot"])
def test_a_step_allocates_no_weight_sized_tensor(restore: str) -> None:
    """After the first step, what is allocated is the forward's own."""
    model = NoAllocation()
    x = torch.ones(1, 64)

    def closure() -> Tensor:
        return model(x).square().mean()

    optimizer = MeZO(model, 1e-3, EPS, restore=restore)
    optimizer.step(closure)
    optimizer.step(closure)
    optimizer.step(closure)
    with torch.profiler.profile(profile_memory=True) as profile:
        optimizer.step(closure)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest <= 64 * 4, largest
