"""SparseMeZO: the small weights only, or some layers a step."""

from __future__ import annotations

from typing import Any

from torch import nn

from zokern.app.methods.base import ESTIMATES, Method, query_count, shared
from zokern.app.methods.rates import ESTIMATE
from zokern.app.options import TrainOptions
from zokern.optim import BlockSchedule, SparseMeZO

__all__ = ["METHODS"]


def _build(model: nn.Module, options: TrainOptions) -> Any:
    blocks = None
    if options.blocks is not None:
        blocks = BlockSchedule(options.blocks, order="random", seed=options.seed)
    return SparseMeZO(
        model,
        num_queries=query_count(options),
        refresh=options.mask_refresh,
        blocks=blocks,
        **shared(options, "sparsity", "one_sided", "distribution"),
    )


def _defaults(options: TrainOptions) -> dict[str, Any]:
    # adapters start at zero, where one threshold would freeze all
    return {} if options.tuning == "full" else {"mask_refresh": 1}


METHODS = (
    Method(
        "sparse-mezo",
        "only the small weights, or some layers a step (Liu et al. 2024)",
        _build,
        ESTIMATES | {"sparsity", "mask_refresh", "blocks"},
        tuning="full",
        rates=ESTIMATE.with_task("digits", 3e-1),
        defaults=_defaults,
        shown={"mask_refresh": "full: never; adapters: 1"},
    ),
)
