"""Checks name the argument and the value, and take the name first."""

from __future__ import annotations

import math
from typing import Any

import pytest

from zokern.call.checks import check_choice, check_fp32, check_number, check_seed
from zokern.call.rules import AdamRule, AdaMURule


def test_what_fits_is_returned() -> None:
    assert check_choice("rounding", "nearest", ("nearest", "stochastic")) == "nearest"
    assert check_number("lr", 0, 0.0) == 0.0
    assert check_number("queries", 3, 1, integer=True) == 3
    assert check_fp32("scale", 0.1) == 0.10000000149011612
    assert check_seed("seed", 2**64 - 1) == 2**64 - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lr", -1.0, 0.0), "lr must be a number >= 0, got -1.0"),
        (("lr", "fast", 0.0), "lr must be a number, got 'fast'"),
        (("lr", math.nan, 0.0), "lr must be a number >= 0, got nan"),
        (("eps", 0.0, 0.0, {"above": True}), "eps must be a number > 0, got 0.0"),
        (("momentum", 1.0, 0.0, {"high": 1.0}), "momentum must be a number >= 0 and < 1, got 1.0"),
        (("queries", 1.5, 1, {"integer": True}), "queries must be an integer >= 1, got 1.5"),
        (("queries", True, 1, {"integer": True}), "queries must be an integer >= 1, got True"),
        (("queries", 0, 1, {"integer": True}), "queries must be an integer >= 1, got 0"),
    ],
)
def test_numbers_out_of_range_are_named(arguments: tuple[Any, ...], message: str) -> None:
    *positional, last = arguments
    keywords = last if isinstance(last, dict) else {}
    with pytest.raises(ValueError) as error:
        check_number(*(positional if keywords else arguments), **keywords)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: check_choice("rounding", "up", ("nearest",)), "rounding must be one of 'nearest', got 'up'"),
        (lambda: check_fp32("scale", math.inf), "scale must be finite, got inf"),
        (lambda: check_fp32("scale", 1e300), "scale must be within the range of fp32, got 1e+300"),
        (lambda: check_seed("seeds[1]", -1), "seeds[1] must be in [0, 2**64), got -1"),
        (lambda: AdamRule.of(0.1, (0.9, 1.0), 1e-8, 1, 0.0), "betas[1] must be in [0, 1), got 1.0"),
        (lambda: AdamRule.of(0.1, (0.9, 0.9), 0.0, 1, 0.0), "eps must be above 0 in fp32, got 0.0"),
        (lambda: AdaMURule.of_probe(2.0, 0.5), "alpha must be in [0, 1], got 2.0"),
        (lambda: AdaMURule.of_update(0.5, 0.5, -1.0, 1e-8, 1.0), "beta2 must be in [0, 1], got -1.0"),
    ],
)
def test_values_that_do_not_fit_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message
