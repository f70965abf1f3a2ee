"""The keywords that every method takes, declared once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol, TypedDict

from torch import nn

from .perturbation import Perturbation


class Queries(Protocol):
    """A number of queries that changes from epoch to epoch."""

    def queries(self, epoch: int) -> int: ...


class Shared(TypedDict, total=False):
    """Keywords that every method and preset takes; `ZerothOrderOptimizer` says what each means."""

    distribution: str
    evaluation: str
    max_parallel: int | None
    restore: str
    lazy: bool
    rounding: str
    seed: int
    module: nn.Module | None


class Common(Shared, total=False):
    """Keywords of every method."""

    num_queries: int | Queries
    perturbation: Perturbation | None


class _MeZOOptions(Shared, total=False):
    one_sided: bool
    momentum: float
    momentum_window: int | None
    weight_decay: float


class AdaZetaOptions(_MeZOOptions, total=False):
    """Keywords of `MeZO` but for the number of queries."""

    perturbation: Perturbation | None


class SparseOptions(_MeZOOptions, total=False):
    """Keywords of `MeZO` but for the perturbation."""

    num_queries: int | Queries


class AdamWOptions(Common, total=False):
    """Keywords of `ZOAdam` that `ZOAdamW` takes with its defaults."""

    betas: tuple[float, float]
    adam_eps: float
    one_sided: bool


class AdamOptions(AdamWOptions, total=False):
    """Keywords of `ZOAdam` that its other variants take with its defaults."""

    weight_decay: float


class SVRGOptions(Common, total=False):
    """Keywords of the variance-reduced methods."""

    interval: int
    anchor: str
    weight_decay: float


def renamed(
    options: Any, old: str, new: str, values: Mapping[str, str] | None = None, owner: str = ""
) -> None:
    """Takes an option under its name of earlier versions, with a warning that tells the new one.

    Raises:
        TypeError: both names are given.
    """
    if old not in options:
        return
    if new in options:
        raise TypeError(f"{owner}: {old} is the former name of {new}; give {new} alone")
    value = options.pop(old)
    options[new] = (values or {}).get(value, value)
    warnings.warn(
        f"{owner}: {old}={value!r} is now {new}={options[new]!r}; the old name goes with the next release",
        DeprecationWarning,
        stacklevel=4,
    )
