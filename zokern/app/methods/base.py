"""What a method is: one object that says how it is built, stepped, replayed, counted, and what it takes
where the user gives nothing. `spsa` is the way most of them count; `shared` picks what they are built with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from zokern.app.methods.rates import ESTIMATE, Rates
from zokern.app.options import TrainOptions
from zokern.optim import QuerySchedule

__all__ = [
    "ESTIMATES",
    "EVERY",
    "QUERIES",
    "Closures",
    "Method",
    "Progress",
    "batch_size",
    "full_size",
    "queries_at",
    "query_count",
    "shared",
]

EVERY = frozenset({"eps", "restore", "lazy", "rounding", "evaluation", "max_parallel"})
"""Options that every zeroth-order method reads."""

QUERIES = frozenset({"num_queries", "query_schedule", "query_alpha", "query_beta", "query_max"})
"""Those of methods that average several directions."""

ESTIMATES = EVERY | QUERIES | {"one_sided", "distribution"}
"""Those of methods that take SPSA's estimate in all its forms."""


@dataclass(frozen=True)
class Closures:
    """What a step may evaluate; each returns a mean loss, as a float but for `tensor`.

    Args:
        batch: over the step's own batch.
        full: over a larger fixed sample (`full_batch_size` of the options), in micro-batches.
        sample: over example i of that sample.
        tensor: over the step's own batch, with its graph.
    """

    batch: Callable[[], float]
    full: Callable[[], float]
    sample: Callable[[int], float]
    tensor: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Progress:
    """Where the run is: `step` and `epoch` counted from 0, the run's `steps`, and its options."""

    step: int
    epoch: int
    steps: int
    options: TrainOptions


def _plain_step(optimizer: Any, closures: Closures, progress: Progress) -> float:
    return float(optimizer.step(closures.batch))


def _plain_replay(optimizer: Any, losses: list[float], progress: Progress) -> float:
    return float(optimizer.replay_step(losses))


def _one_batch(optimizer: Any, options: TrainOptions) -> float:
    return 1.0


def _spsa_forwards(options: TrainOptions, step: int) -> float:
    queries = queries_at(options, step)
    return queries + 1.0 if options.one_sided else 2.0 * queries


@dataclass(frozen=True)
class Method:
    """A way of training.

    Args:
        name: as given to `--method`.
        summary: one line for `--help`.
        build: (model, options) -> optimizer with `step`, `flush`, `state_dict`, `load_state_dict`,
            `param_groups`, `last.losses` and `replay_step`; the model is the whole classifier.
        reads: names of the options that only some methods read and this one does; None: all.
        step: one step; returns the loss to show.
        replay: repeats a step from its logged losses, bit for bit; None: it cannot be, and
            resuming goes by checkpoints alone.
        evaluation: (optimizer, options) -> what each evaluation of the next step costs, in forward
            passes over `batch_size` examples.
        forwards: (options, step) -> what step `step` (from 0) costs in all, for planning.
        tuning: which parameters it trains where neither user nor model say.
        rates: its learning rates where the user gives none.
        weight_decay: where the user gives none.
        coupled_decay: weight decay goes through the gradient; else it shrinks the weights by itself.
        scheduled: its queries follow the schedule over epochs where the user gives no number.
        first_order: it takes backward passes.
        defaults: options, complete but for these -> values of further ones that the user left open.
        shown: option -> how `--help` writes such a default.
        example: options and a remark, for an example in `--help`.
    """

    name: str
    summary: str
    build: Callable[[nn.Module, TrainOptions], Any]
    reads: frozenset[str] | None = None
    step: Callable[[Any, Closures, Progress], float] = _plain_step
    replay: Callable[[Any, list[float], Progress], float] | None = _plain_replay
    evaluation: Callable[[Any, TrainOptions], float] = _one_batch
    forwards: Callable[[TrainOptions, int], float] = _spsa_forwards
    tuning: str = "lora"
    rates: Rates = ESTIMATE
    weight_decay: float = 0.0
    coupled_decay: bool = False
    scheduled: bool = False
    first_order: bool = False
    defaults: Callable[[TrainOptions], dict[str, Any]] = lambda options: {}
    shown: Mapping[str, str] = field(default_factory=dict)
    example: tuple[str, str] | None = None

    def takes(self, option: str) -> bool:
        """Whether it reads an option that only some methods do."""
        return self.reads is None or option in self.reads


def query_count(options: TrainOptions) -> int | QuerySchedule:
    """Queries a step as the optimizers take them: a number, or the schedule over epochs."""
    if options.num_queries is not None:
        return options.num_queries
    per_epoch = _steps_per_epoch(options)
    return QuerySchedule(options.query_alpha, options.query_beta, options.query_max, per_epoch)


def _steps_per_epoch(options: TrainOptions) -> int:
    assert options.train_size is not None  # resolved
    return -(-options.train_size // batch_size(options))


def queries_at(options: TrainOptions, step: int) -> int:
    """Queries of step `step` (from 0)."""
    count = query_count(options)
    return count if isinstance(count, int) else count.queries(step // _steps_per_epoch(options))


def batch_size(options: TrainOptions) -> int:
    assert options.batch_size is not None  # resolved
    return options.batch_size


def full_size(options: TrainOptions) -> int:
    """Examples of the full batch."""
    assert options.train_size is not None  # resolved
    return min(options.full_batch_size, options.train_size)


def shared(options: TrainOptions, *names: str) -> dict[str, Any]:
    """What every zeroth-order optimizer is built with, and the options in `names`."""
    taken = ("lr", "weight_decay", "seed", *sorted(EVERY), *names)
    return {name: getattr(options, name) for name in taken}
