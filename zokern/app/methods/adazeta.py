"""AdaZeta: MeZO whose queries grow with the epoch, on tensor-train adapters."""

from __future__ import annotations

from typing import Any

from torch import nn

from zokern.app.methods.base import EVERY, QUERIES, Method, query_count, shared
from zokern.app.options import TrainOptions
from zokern.optim import AdaZeta

__all__ = ["METHODS"]


def _build(model: nn.Module, options: TrainOptions) -> Any:
    return AdaZeta(model, schedule=query_count(options), **shared(options, "distribution"))


METHODS = (
    Method(
        "adazeta",
        "queries that grow with the epoch (Yang et al. 2024)",
        _build,
        EVERY | QUERIES | {"distribution"},
        tuning="tt",
        scheduled=True,
    ),
)
