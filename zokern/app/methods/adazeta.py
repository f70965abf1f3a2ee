"""AdaZeta: MeZO whose queries grow with the epoch, on tensor-train adapters."""

from __future__ import annotations

from typing import Any

from torch import nn

from zokern.app.methods.base import EVERY, QUERIES, Method, query_count, shared
from zokern.app.options import TrainOptions
from zokern.optim import AdaZeta

__all__ = ["METHODS"]

# the optimizer's word for each of --evaluation's
_QUERIES = {"loop": "loop", "batched": "parallel"}


def _build(model: nn.Module, options: TrainOptions) -> Any:
    more = shared(options, "max_parallel", "distribution")
    return AdaZeta(model, schedule=query_count(options), queries=_QUERIES[options.evaluation], **more)


METHODS = (
    Method(
        "adazeta",
        "queries that grow with the epoch (Yang et al. 2024)",
        _build,
        EVERY | QUERIES | {"distribution", "evaluation", "max_parallel"},
        tuning="tt",
        scheduled=True,
    ),
)
