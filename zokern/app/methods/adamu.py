"""ZO-AdaMU: momentum in the perturbation, in stages over the run."""

from __future__ import annotations

from typing import Any

from torch import nn

from zokern.app.methods.base import EVERY, QUERIES, Method, query_count, shared
from zokern.app.methods.rates import ESTIMATE
from zokern.app.options import TrainOptions
from zokern.optim import ZOAdaMU

__all__ = ["METHODS"]


def _build(model: nn.Module, options: TrainOptions) -> Any:
    assert options.steps is not None  # resolved
    more = shared(options, "orient_momentum")
    return ZOAdaMU(model, schedule=options.steps, num_queries=query_count(options), **more)


METHODS = (
    Method(
        "zo-adamu",
        "momentum and annealed uncertainty in the perturbation (Jiang et al. 2024)",
        _build,
        EVERY | QUERIES | {"orient_momentum"},
        rates=ESTIMATE.with_task("digits", 1e-1),
    ),
)
