"""Counting passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from zokern import backends


@dataclass
class Passes:
    """Calls of the backend's `perturb_`: (elements written, seeds, rounding) of each."""

    calls: list[tuple[int, int, str]] = field(default_factory=list)

    def clear(self) -> None:
        self.calls.clear()

    @property
    def count(self) -> int:
        return len(self.calls)

    @property
    def elements(self) -> int:
        return sum(elements for elements, _, _ in self.calls)

    @property
    def normals(self) -> int:
        return sum(elements * seeds for elements, seeds, _ in self.calls)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passes]:
    """Counts what reaches any backend."""
    seen = Passes()
    for name in backends.MODULES:
        module = backends._load(name)
        if isinstance(module, str):
            continue
        kernel = module.OPS["perturb_"]

        def counted(params: Any, out: Any, seeds: Any, *rest: Any, kernel: Any = kernel) -> None:
            seen.calls.append((sum(p.numel() for p in params), len(seeds), rest[-1]))
            kernel(params, out, seeds, *rest)

        monkeypatch.setitem(module.OPS, "perturb_", counted)
    yield seen
