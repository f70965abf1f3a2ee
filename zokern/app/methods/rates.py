"""Learning rates and scales where the user gives none.

Rates were measured with short runs of SmolLM2-135M on movie reviews and of the MLP on digits; other
models and tasks need their own search. A rate that belongs to one method stands in that method's file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ADAPTIVE", "ESTIMATE", "SHORT_RUNS", "USUAL", "Rates", "eps_of"]

Place = tuple[str, str, str]
"""Task, model and tuning, by name."""


@dataclass(frozen=True)
class Rates:
    """A method's learning rates; the first that there is counts, in the order of the arguments.

    Args:
        on_task: task -> rate measured with the method itself, for whatever model and tuning.
        measured: (task, model, tuning) -> rate of a good short run.
        by_tuning: tuning -> rate elsewhere.
    """

    on_task: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[Place, float] = field(default_factory=dict)
    by_tuning: Mapping[str, float] = field(default_factory=dict)

    def at(self, task: str, model: str, tuning: str) -> float:
        """The rate of a task, a model and a tuning; 1e-6, which does no harm, where nothing is known."""
        found = self.on_task.get(task, self.measured.get((task, model, tuning)))
        return self.by_tuning.get(tuning, 1e-6) if found is None else found

    def with_task(self, task: str, lr: float) -> Rates:
        """These rates, and the method's own on a task."""
        return Rates({**self.on_task, task: lr}, self.measured, self.by_tuning)


ESTIMATE = Rates(
    measured={
        ("mr", "smollm2", "lora"): 8e-4,
        ("mr", "smollm2", "prefix"): 2e-2,
        ("mr", "smollm2", "full"): 2e-5,
        ("digits", "mlp", "full"): 3e-2,
    },
    by_tuning={
        "lora": 4e-4,
        "prefix": 1e-3,
        "tt": 1e-3,
        "full": 6e-6,
        "last-layers": 1e-5,
        "head": 1e-3,
        "modules": 1e-5,
    },
)
"""Of rules whose step is as long as the estimate of the gradient, as in plain zeroth-order SGD."""

ADAPTIVE = Rates(
    by_tuning={
        "lora": 3e-3,
        "prefix": 1e-2,
        "tt": 1e-3,
        "full": 1e-5,
        "last-layers": 3e-5,
        "head": 1e-2,
        "modules": 3e-5,
    }
)
"""Of rules whose steps have a length of their own, whatever the gradient's."""

_EPS = {
    "lora": 1e-2,
    "prefix": 1e-1,
    "tt": 1e-2,
    "full": 1e-3,
    "last-layers": 1e-3,
    "head": 1e-2,
    "modules": 1e-3,
}


def eps_of(tuning: str) -> float:
    """The perturbation scale of a tuning."""
    return _EPS.get(tuning, 1e-3)


USUAL: dict[str, Any] = {"steps": 160, "batch_size": 8, "num_queries": 1, "lr_schedule": "constant"}
"""What a run takes of any method."""

SHORT_RUNS: dict[Place, dict[str, Any]] = {
    ("mr", "smollm2", "lora"): {"lr_schedule": "linear"},
    ("mr", "smollm2", "prefix"): {"lr_schedule": "linear"},
    ("mr", "smollm2", "full"): {"lr_schedule": "linear"},
    ("digits", "mlp", "full"): {"steps": 1500, "batch_size": 64, "num_queries": 8, "lr_schedule": "linear"},
    ("reuters", "minilm", "head"): {"steps": 200, "batch_size": 32},
}
"""What a good short run takes in place of that, measured on 2 cores."""
