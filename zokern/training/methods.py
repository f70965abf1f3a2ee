"""Which optimizer a run uses. A new method is one entry of `METHODS`.

    METHODS["my-method"] = Method(build=lambda model, o: MyOptimizer(model, lr=o.lr, ...))

The loop calls `method.step(optimizer, closures, progress)` once per step and logs the losses the
optimizer saw (`optimizer.last.losses`); resuming repeats the steps from the log with
`method.replay`, no forward. Any `ZerothOrderOptimizer` whose `step` takes only the closure needs
neither written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from zokern.tasks import UserError
from zokern.training.options import TrainOptions

__all__ = ["METHODS", "Closures", "Method", "Progress", "build_optimizer"]


@dataclass(frozen=True)
class Closures:
    """What a step may evaluate; each call is one forward and returns the mean loss as a float.

    Args:
        batch: over the step's own batch.
        full: over a larger fixed sample (`full_batch` of the method), for variance reduction.
    """

    batch: Callable[[], float]
    full: Callable[[], float]


@dataclass(frozen=True)
class Progress:
    """Where the run is: `step` and `epoch` counted from 0, and the run's `steps`."""

    step: int
    epoch: int
    steps: int


def _plain_step(optimizer: Any, closures: Closures, progress: Progress) -> float:
    return float(optimizer.step(closures.batch))


def _plain_replay(optimizer: Any, losses: list[float], progress: Progress) -> float:
    return float(optimizer.replay_step(losses))


@dataclass(frozen=True)
class Method:
    """A way of training.

    Args:
        build: (model, options) -> optimizer with `step`, `flush`, `state_dict`, `load_state_dict`,
            `param_groups`, `last.losses` and `replay_step`; the model is the whole classifier.
        summary: one line for `--help`.
        step: one step; returns the loss to show.
        replay: repeats a step from its logged losses, bit for bit.
        full_batch: size of the sample behind `Closures.full`.
    """

    build: Callable[[nn.Module, TrainOptions], Any]
    summary: str
    step: Callable[[Any, Closures, Progress], float] = _plain_step
    replay: Callable[[Any, list[float], Progress], float] = _plain_replay
    full_batch: int = 256


def query_count(options: TrainOptions) -> Any:
    """Queries a step as the optimizers take them: a number, or the schedule over epochs."""
    if options.num_queries is not None:
        return options.num_queries
    from zokern.optim import QuerySchedule

    assert options.train_size is not None and options.batch_size is not None  # resolved
    per_epoch = -(-options.train_size // options.batch_size)
    return QuerySchedule(options.query_alpha, options.query_beta, options.query_max, per_epoch)


def _mezo(model: nn.Module, options: TrainOptions) -> Any:
    from zokern.optim import MeZO

    assert options.lr is not None and options.eps is not None  # resolved
    return MeZO(
        model,
        lr=options.lr,
        eps=options.eps,
        num_queries=query_count(options),
        one_sided=options.one_sided,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        distribution=options.distribution,
        restore=options.restore,
        lazy=options.lazy,
        rounding=options.rounding,
        seed=options.seed,
    )


def _adazeta(model: nn.Module, options: TrainOptions) -> Any:
    from zokern.optim import AdaZeta

    assert options.lr is not None and options.eps is not None  # resolved
    return AdaZeta(
        model,
        lr=options.lr,
        eps=options.eps,
        schedule=query_count(options),
        queries=options.queries,
        max_parallel=options.max_parallel,
        weight_decay=options.weight_decay,
        distribution=options.distribution,
        restore=options.restore,
        lazy=options.lazy,
        rounding=options.rounding,
        seed=options.seed,
    )


METHODS: dict[str, Method] = {
    "mezo": Method(_mezo, "two forward passes a step (MeZO, Malladi et al. 2023)"),
    "adazeta": Method(_adazeta, "queries that grow with the epoch (AdaZeta, Yang et al. 2024)"),
}


def build_optimizer(model: nn.Module, options: TrainOptions) -> tuple[Method, Any]:
    """The method named in the options and its optimizer over `model`'s trainable parameters.

    Raises:
        UserError: unknown method, or options it rejects.
    """
    if options.method not in METHODS:
        raise UserError(f"Unknown method {options.method!r}; known: {', '.join(METHODS)}.")
    method = METHODS[options.method]
    try:
        return method, method.build(model, options)
    except (ValueError, TypeError) as error:
        raise UserError(f"Method {options.method} rejects its options: {error}") from None
