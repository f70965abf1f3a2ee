"""Query schedules."""

from __future__ import annotations

import math

import pytest

from zokern.optim import QuerySchedule


def test_known_values() -> None:
    """1 000 samples in batches of 16, 5 000 steps: 63 steps an epoch, 80 epochs."""
    schedule = QuerySchedule(alpha=0.85, beta=0.45, q_max=20)
    assert math.ceil(1000 / 16) == 63 and 4999 // 63 == 79
    epochs = (0, 1, 2, 5, 10, 20, 40, 79)
    assert [schedule.queries(epoch) for epoch in epochs] == [1, 1, 1, 1, 2, 3, 4, 6]


def test_stays_between_one_and_the_maximum_and_never_falls() -> None:
    schedule = QuerySchedule(q_max=5)
    values = [schedule.queries(epoch) for epoch in range(500)]
    assert values[0] == 1 and max(values) == 5
    assert values == sorted(values)


@pytest.mark.parametrize("q_last", [1, 2, 3, 5, 10, 20])
@pytest.mark.parametrize("epochs", [2, 3, 10, 80])
def test_reach_ends_where_it_says(q_last: int, epochs: int) -> None:
    """Also where floating point lands a rounding below the integer."""
    schedule = QuerySchedule.reach(q_last, epochs)
    assert schedule.queries(epochs) == q_last
    assert schedule.queries(epochs - 1) <= q_last
    assert schedule.beta == pytest.approx(math.log(q_last / 0.85) / math.log(epochs))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"alpha": 0.0}, "alpha must be a number > 0, got 0.0"),
        ({"beta": -1.0}, "beta must be a number >= 0, got -1.0"),
        ({"q_max": 0}, "q_max must be an integer >= 1, got 0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch must be an integer >= 1, got 0"),
    ],
)
def test_refuses(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuerySchedule(**options)  # type: ignore[arg-type]


def test_reach_refuses_what_no_exponent_reaches() -> None:
    with pytest.raises(ValueError, match="epochs must be an integer >= 2, got 1"):
        QuerySchedule.reach(4, 1)
    with pytest.raises(ValueError, match="q_last must be >= alpha = 3, got 2"):
        QuerySchedule.reach(2, 10, alpha=3.0)
    with pytest.raises(ValueError, match="epoch must be an integer >= 0, got -1"):
        QuerySchedule().queries(-1)
