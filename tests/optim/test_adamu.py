"""ZO-AdaMU: its schedules, its limits, and what the momentum in memory is at each moment."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zokern
from tests.optim.problems import Bowl, same, values
from zokern.optim import AdaMUSchedule, ZOAdaMU

EPS = 2.0**-7


def z(p: Tensor, stream: int, step: int, lane: int = 0) -> Tensor:
    return zokern.normal(p.shape, zokern.derive_seed(0, step), stream=stream, lane=lane)


# -- schedules --------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "stages"), [(1000, (100, 800)), (100_000, (1024, 80_000)), (1, (0, 0))])
def test_stages_follow_from_the_length_of_the_run(total: int, stages: tuple[int, int]) -> None:
    assert AdaMUSchedule(total).stages == stages


def test_schedules_are_the_closed_form() -> None:
    """One until T1, then half a cosine down to the end values 0.5, 0.9 and 0.01, which T2 on hold."""
    schedule = AdaMUSchedule(total_steps=1000)
    assert {schedule(t) for t in (1, 50, 99, 100)} == {(1.0, 1.0, 1.0)}
    for t in range(100, 800, 7):
        left = 0.5 * (1 + math.cos(math.pi * (t - 100) / 700))
        assert schedule(t) == pytest.approx((0.5 + 0.5 * left, 0.9 + 0.1 * left, 0.01 + 0.99 * left))
    assert {schedule(t) for t in (800, 801, 1000, 5000)} == {(0.5, 0.9, 0.01)}
    assert schedule(450) == schedule(450)  # nothing is changed by asking
    short = AdaMUSchedule(10, warmup=2, settled=6, alpha=0.0, beta1=0.5, beta2=0.0)
    left = [1, 1, (2 + 2**0.5) / 4, 1 / 2, (2 - 2**0.5) / 4, 0, 0]
    assert [short(t)[0] for t in range(1, 8)] == pytest.approx(left, abs=1e-15)
    assert [short(t)[1] for t in range(1, 8)] == pytest.approx([(1 + x) / 2 for x in left], abs=1e-15)


def test_schedules_do_not_depend_on_how_many_tensors_there_are() -> None:
    """Fails where a schedule advances once a tensor, as published code does."""
    seen: dict[int, list[int]] = {}
    for tensors in (1, 5):
        params = [nn.Parameter(torch.ones(4)) for _ in range(tensors)]
        asked = seen.setdefault(tensors, [])

        def schedule(t: int, asked: list[int] = asked) -> tuple[float, float, float]:
            asked.append(t)
            return 0.5, 0.9, 0.5

        optimizer = ZOAdaMU(params, schedule=schedule)
        for _ in range(3):
            optimizer.step(lambda: 1.0)
    assert seen[1] == seen[5]
    assert sorted(set(seen[1])) == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_steps": 0}, "total_steps must be an integer >= 1, got 0"),
        ({"total_steps": 10, "alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ({"total_steps": 10, "beta2": -0.1}, "beta2 must be in \\[0, 1\\], got -0.1"),
        ({"total_steps": 10, "warmup": 2.5}, "warmup must be an integer >= 0, got 2.5"),
        ({"total_steps": 10, "warmup": 8, "settled": 3}, "settled must be >= warmup = 8, got 3"),
    ],
)
def test_schedule_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaMUSchedule(**options)


# -- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("restore", ["inplace", "exact", "snapshot"])
def test_with_everything_at_one_it_steps_by_the_sign_of_n1(restore: str) -> None:
    """alpha = beta1 = beta2 = 1: the direction is n1, the update -lr g sign(n1)."""
    model, probes = Bowl(), Bowl()
    optimizer = ZOAdaMU(model, 0.01, EPS, schedule=lambda t: (1.0, 1.0, 1.0), restore=restore)
    start = values(model)
    optimizer.step(model)
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            for i, (p, s) in enumerate(zip(probes.parameters(), start)):
                p.copy_(s + sign * EPS * z(s, i, 0))
        losses.append(float(probes().detach()))
    assert optimizer.last.losses == pytest.approx(losses, rel=1e-6)
    g = (losses[0] - losses[1]) / (2 * EPS)
    for i, (p, s) in enumerate(zip(model.parameters(), start)):
        n1 = z(s, i, 0)
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], n1, rtol=0, atol=0)
        # sigma under the root takes 1e-8 / (2 n1^2) of the step
        torch.testing.assert_close(
            p.detach(), s - 0.01 * g * n1 / (n1**2 + 1e-8).sqrt(), rtol=1e-4, atol=1e-6
        )
        large = n1.abs() > 0.01
        step = (p.detach() - s)[large]
        torch.testing.assert_close(step, (-0.01 * g * n1.sign())[large], rtol=2e-4, atol=1e-6)


def test_with_everything_at_zero_the_momentum_only_drifts() -> None:
    """alpha = beta1 = 0: m_t = m + n2, a random walk; beta2 = 0: the step is by its sign."""
    model = Bowl()
    optimizer = ZOAdaMU(model, 1e-4, EPS, schedule=lambda t: (0.0, 0.0, 0.0))
    for _ in range(3):
        before = values(model)
        optimizer.step(model)
    g = optimizer.last.projected_grads[zokern.derive_seed(0, 2)]
    for i, (p, s) in enumerate(zip(model.parameters(), before)):
        m = sum(z(p, i, t, lane=1) for t in range(3))
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], m, rtol=1e-6, atol=1e-6)
        large = m.abs() > 0.01
        torch.testing.assert_close((p - s)[large], (-1e-4 * g * m.sign())[large], rtol=1e-3, atol=1e-6)


# -- the momentum -----------------------------------------------------------------------------


@pytest.mark.parametrize("restore", ["inplace", "exact", "snapshot"])
def test_probes_do_not_change_the_momentum_and_the_update_stores_their_direction(restore: str) -> None:
    model = Bowl()
    alpha, beta1 = 0.6, 0.8
    optimizer = ZOAdaMU(model, 0.01, EPS, schedule=lambda t: (alpha, beta1, 0.3), restore=restore)
    optimizer.step(model)
    before = [optimizer.state[p]["exp_avg"].clone() for p in model.parameters()]

    def looks() -> Tensor:
        assert same([optimizer.state[p]["exp_avg"] for p in optimizer.trainables], before)
        return model()

    optimizer.step(looks)
    for i, (p, m) in enumerate(zip(model.parameters(), before)):
        gradient = math.sqrt(alpha) * z(p, i, 1)
        past = m + math.sqrt(1 - alpha) * z(p, i, 1, lane=1)
        expected = beta1 * gradient + (1 - beta1) * past
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], expected, rtol=1e-6, atol=1e-6)


def test_an_oriented_momentum_points_uphill_or_downhill_as_g_says() -> None:
    stored = {}
    for orient in (False, True):
        for slope in (1.0, -1.0):
            w = nn.Parameter(torch.zeros(50))
            options: dict[str, Any] = {"schedule": lambda t: (0.6, 0.8, 0.3), "orient_momentum": orient}
            optimizer = ZOAdaMU([w], 0.01, EPS, **options)
            optimizer.step(lambda w=w, slope=slope: slope * w.sum())
            stored[orient, slope] = (optimizer.state[w]["exp_avg"], optimizer.last.projected_grads)
    for (orient, slope), (m, grads) in stored.items():
        (g,) = grads.values()
        sign = -1.0 if orient and g < 0 else 1.0
        assert torch.equal(m, sign * stored[False, slope][0])
    # one slope of the two is uphill, so that the sign was at work
    assert not torch.equal(stored[True, 1.0][0], stored[True, -1.0][0])


def test_one_fp32_buffer_whatever_the_dtype() -> None:
    model = Bowl(torch.bfloat16)
    optimizer = ZOAdaMU(model, schedule=10)
    optimizer.step(model)
    for p in model.parameters():
        assert {name: m.dtype for name, m in optimizer.state[p].items()} == {"exp_avg": torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": 10, "sigma": 0.0}, "sigma must be a number > 0, got 0.0"),
        ({"schedule": 0}, "schedule must be an integer >= 1, got 0"),
        ({"schedule": 10, "lr": -1.0}, "lr must be a number >= 0, got -1.0"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZOAdaMU(Bowl(), **options)
