"""The keywords that every method takes, declared once, and former names of options."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, Protocol, TypedDict

from torch import nn

from .perturbation import Perturbation

Params = nn.Module | Iterable[Any]
"""A module, `parameters()`, `named_parameters()` or param groups."""


class Queries(Protocol):
    """A number of queries that changes from epoch to epoch."""

    def queries(self, epoch: int) -> int: ...


class Common(TypedDict, total=False):
    """Keywords of every method; `ZerothOrderOptimizer` says what each means."""

    num_queries: int | Queries
    perturbation: Perturbation | None
    distribution: str
    evaluation: str
    max_parallel: int | None
    restore: str
    lazy: bool
    rounding: str
    common_random_numbers: bool
    seed: int
    streams: str
    module: nn.Module | None


def renamed(options: dict[str, Any], owner: str, old: str, new: str, **values: str) -> None:
    """Takes an option under its name of version 0.1 (and its `values`), with a warning.

    Raises:
        TypeError: both names are given.
    """
    if old not in options:
        return
    if new in options:
        raise TypeError(f"{owner}: {old} is the former name of {new}; give {new} alone")
    value = options.pop(old)
    options[new] = values.get(value, value)
    warnings.warn(
        f"{owner}: {old}={value!r} is now {new}={options[new]!r}; the old name goes with the next release",
        DeprecationWarning,
        stacklevel=4,
    )
