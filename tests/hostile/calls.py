"""What a row of the tables is: a valid call, and what kind each of its arguments is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tests.hostile.values import Kind


@dataclass
class Call:
    """One function or class. `valid()` gives fresh arguments by name; `kinds` has each argument's."""

    function: Callable[..., Any]
    valid: Callable[[], dict[str, Any]]
    kinds: dict[str, Kind]
    named: dict[str, str] = field(default_factory=dict)  # argument to what messages call it
    within: bool = False  # whether the result is a context to enter
    without: tuple[str, ...] = ()  # keywords of every method that this one refuses


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
