"""Whatever happens in a step, weights come back: exceptions, Ctrl-C, passes that fail, losses that are not finite."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.optim.problems import EPS, LR, RESTORES, Bowl, same, values
from zokern.optim import MeZO, ZOAdaMU
from zokern.optim import perturbation as passes_module

restores = pytest.mark.parametrize("restore", RESTORES.values(), ids=RESTORES.keys())


class Interrupted(Exception):
    pass


# in place is back to rounding, which fp32 shows
UNDONE = [
    pytest.param(restore, dtype, id=f"{name}-{str(dtype).removeprefix('torch.')}")
    for name, restore in RESTORES.items()
    for dtype in (torch.float32, torch.bfloat16)
    if dtype == torch.float32 or restore["restore"] != "inplace"
]


@pytest.mark.parametrize("restore, dtype", UNDONE)
@pytest.mark.parametrize("call", range(1, 6))
@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
def test_an_exception_in_the_closure_leaves_the_weights(
    restore: dict[str, Any], call: int, error: type[BaseException], dtype: torch.dtype
) -> None:
    """At each of the closure's calls; with one-sided and two-sided queries alike."""
    model, twin = Bowl(dtype), Bowl(dtype)
    options = {"num_queries": 4, "one_sided": True, "weight_decay": 0.1, **restore}
    optimizer, reference = MeZO(model, LR, EPS, **options), MeZO(twin, LR, EPS, **options)
    optimizer.step(model)
    reference.step(twin)
    reference.flush()
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        if calls == call:
            model.inner()
            raise error
        return model()

    with pytest.raises(error):
        optimizer.step(closure)
    assert calls == call
    if restore["restore"] == "inplace":
        for p, w in zip(model.parameters(), twin.parameters()):
            torch.testing.assert_close(p, w, rtol=1e-6, atol=1e-7)
    else:
        assert same(values(model), values(twin))
    assert optimizer.steps == 1
    optimizer.step(model)  # and it goes on


def test_ctrl_c_during_a_pass_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass is finished and noted before KeyboardInterrupt is raised."""
    model = Bowl()
    start = values(model)
    optimizer = MeZO([{"params": [p]} for p in model.parameters()], LR, EPS)
    plain = passes_module.perturb_
    passes = 0

    def interrupted(*args: Any, **kwargs: Any) -> None:
        nonlocal passes
        plain(*args, **kwargs)
        passes += 1
        if passes == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(passes_module, "perturb_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(model)
    assert passes == 3  # to, across (interrupted), back
    for p, w in zip(model.parameters(), start):
        torch.testing.assert_close(p.detach(), w, rtol=1e-6, atol=1e-7)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_pass_that_fails_half_way_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that have moved come back, groups that have not stay."""
    model = Bowl()
    start = values(model)
    groups = [{"params": [p], "eps": EPS * (g + 1)} for g, p in enumerate(model.parameters())]
    optimizer = MeZO(groups, LR, EPS)
    plain = passes_module.perturb_
    passes = 0

    def failing(*args: Any, **kwargs: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == 2:
            raise MemoryError("no more")
        plain(*args, **kwargs)

    monkeypatch.setattr(passes_module, "perturb_", failing)
    with pytest.raises(MemoryError, match="no more"):
        optimizer.step(model)
    for p, w in zip(model.parameters(), start):
        torch.testing.assert_close(p.detach(), w, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e300])
@restores
def test_a_non_finite_loss_skips_the_update(bad: float, restore: dict[str, Any]) -> None:
    model = Bowl()
    optimizer = MeZO(model, LR, EPS, weight_decay=0.1, momentum=0.5, momentum_window=2, **restore)
    start = values(model)

    def closure() -> float:
        model()
        return bad if optimizer.num_evaluations % 2 else 0.0

    with pytest.warns(RuntimeWarning, match="step 0 is skipped"):
        optimizer.step(closure)
    optimizer.step(closure)  # no second warning (warnings are errors under pytest.warns only here)
    optimizer.flush()
    assert optimizer.skipped_steps == 2 and optimizer.steps == 2 and optimizer.last.skipped
    for p, w in zip(model.parameters(), start):
        torch.testing.assert_close(p.detach(), w, rtol=1e-6, atol=1e-6)
    optimizer.step(model)
    assert optimizer.skipped_steps == 2 and not optimizer.last.skipped


def test_a_non_finite_loss_skips_dense_momentum_too() -> None:
    model = Bowl()
    optimizer = MeZO(model, LR, EPS, momentum=0.5)
    optimizer.step(model)
    start, buffers = values(model), [dict(s) for s in optimizer.state.values()]
    kept = [b["momentum_buffer"].clone() for b in buffers]
    with pytest.warns(RuntimeWarning, match="step 1 is skipped"):
        optimizer.step(lambda: float("nan"))
    for p, w in zip(model.parameters(), start):
        torch.testing.assert_close(p.detach(), w, rtol=1e-6, atol=1e-6)
    assert same([s["momentum_buffer"] for s in optimizer.state.values()], kept)


def test_an_estimate_beyond_fp32_skips_adamu_also_at_a_small_rate() -> None:
    model = Bowl()
    optimizer = ZOAdaMU(model, lr=1e-6, eps=EPS, schedule=10)
    start = values(model)
    with pytest.warns(RuntimeWarning, match="step 0 is skipped"):  # g is too large, lr * g is not
        optimizer.step(lambda: 1e38 if optimizer.num_evaluations else 0.0)
    for p, w in zip(model.parameters(), start):
        torch.testing.assert_close(p.detach(), w, rtol=1e-6, atol=1e-6)
