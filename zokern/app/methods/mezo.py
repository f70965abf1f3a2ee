"""MeZO: the estimate itself, with or without momentum."""

from __future__ import annotations

from typing import Any

from torch import nn

from zokern.app.methods.base import ESTIMATES, Method, query_count, shared
from zokern.app.options import TrainOptions
from zokern.optim import MeZO

__all__ = ["METHODS"]


def _build(model: nn.Module, options: TrainOptions) -> Any:
    more = shared(options, "momentum", "one_sided", "distribution")
    return MeZO(model, num_queries=query_count(options), **more)


METHODS = (
    Method(
        "mezo",
        "two forward passes a step (Malladi et al. 2023)",
        _build,
        ESTIMATES | {"momentum"},
    ),
)
