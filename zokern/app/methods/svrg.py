"""MeZO-SVRG and ZO-SVRG: a full batch now and then takes out the noise of the mini-batches."""

from __future__ import annotations

from typing import Any

from torch import nn

from zokern.app.data import batch_indices
from zokern.app.methods.base import (
    EVERY,
    QUERIES,
    Closures,
    Method,
    Progress,
    batch_size,
    full_size,
    queries_at,
    query_count,
    shared,
)
from zokern.app.methods.rates import ESTIMATE
from zokern.app.options import TrainOptions
from zokern.optim import ZOSVRG, MeZOSVRG, ZerothOrderOptimizer

__all__ = ["METHODS"]

_READS = EVERY | {"interval", "full_batch_size", "anchor", "distribution"}

# MeZO-SVRG's second rate, of the steps between full ones, as a share of the first
_MINIBATCH_SHARE = 0.3


_TAKEN = ("interval", "anchor", "distribution")


def _mezo_svrg(model: nn.Module, options: TrainOptions) -> ZerothOrderOptimizer:
    return MeZOSVRG(model, num_queries=query_count(options), **shared(options, "lr_minibatch", *_TAKEN))


def _mezo_svrg_step(optimizer: Any, closures: Closures, progress: Progress) -> float:
    return float(optimizer.step(closures.batch, full_closure=closures.full))


def _full_or_mini(optimizer: Any, options: TrainOptions) -> float:
    return full_size(options) / batch_size(options) if optimizer.next_is_full else 1.0


def _mezo_svrg_forwards(options: TrainOptions, step: int) -> float:
    queries = queries_at(options, step)
    if step % options.interval == 0:
        return 2.0 * queries * full_size(options) / batch_size(options)
    return 4.0 * queries


def _mezo_svrg_defaults(options: TrainOptions) -> dict[str, Any]:
    assert options.lr is not None  # resolved
    return {"lr_minibatch": _MINIBATCH_SHARE * options.lr}


def _zo_svrg(model: nn.Module, options: TrainOptions) -> ZerothOrderOptimizer:
    return ZOSVRG(model, num_samples=full_size(options), **shared(options, *_TAKEN))


def _zo_svrg_samples(progress: Progress) -> list[int]:
    """The mini-batch of a step: places in the full batch."""
    options, n = progress.options, full_size(progress.options)
    return batch_indices(options.seed, progress.step, min(batch_size(options), n), n)


def _zo_svrg_step(optimizer: Any, closures: Closures, progress: Progress) -> float:
    return float(optimizer.step(closures.sample, _zo_svrg_samples(progress)))


def _zo_svrg_replay(optimizer: Any, losses: list[float], progress: Progress) -> float:
    return float(optimizer.replay_step(losses, _zo_svrg_samples(progress)))


def _one_sample(optimizer: Any, options: TrainOptions) -> float:
    return 1.0 / batch_size(options)


def _zo_svrg_forwards(options: TrainOptions, step: int) -> float:
    share = full_size(options) / batch_size(options)
    return 2.0 * share if step % options.interval == 0 else 4.0 * min(1.0, share)


METHODS = (
    Method(
        "mezo-svrg",
        "mini-batch noise taken out with a full batch now and then (Gautam et al. 2024)",
        _mezo_svrg,
        _READS | QUERIES | {"lr_minibatch"},
        step=_mezo_svrg_step,
        evaluation=_full_or_mini,
        forwards=_mezo_svrg_forwards,
        rates=ESTIMATE.with_task("digits", 1e-1),
        defaults=_mezo_svrg_defaults,
        shown={"lr_minibatch": f"{_MINIBATCH_SHARE:g} lr"},
        example=("--interval 10", "another method and an option of its own"),
    ),
    Method(
        "zo-svrg",
        "a direction for every sample, to compare with (Liu et al. 2018)",
        _zo_svrg,
        _READS,
        step=_zo_svrg_step,
        replay=_zo_svrg_replay,
        evaluation=_one_sample,
        forwards=_zo_svrg_forwards,
    ),
)
