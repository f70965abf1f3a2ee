"""The Adam family on the estimate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from zokern.app.methods.base import ESTIMATES, Method, query_count, shared
from zokern.app.methods.rates import ADAPTIVE
from zokern.app.options import TrainOptions
from zokern.optim import ZerothOrderOptimizer, ZOAdam, ZOAdaMax, ZOAdaMM, ZOAdamW

__all__ = ["METHODS"]


def _of(kind: Callable[..., ZerothOrderOptimizer]) -> Callable[[nn.Module, TrainOptions], Any]:
    def build(model: nn.Module, options: TrainOptions) -> Any:
        more = shared(options, "betas", "adam_eps", "one_sided", "distribution")
        return kind(model, num_queries=query_count(options), **more)

    return build


def _method(
    name: str, summary: str, kind: Callable[..., ZerothOrderOptimizer], lr_on_digits: float, **more: Any
) -> Method:
    rates = ADAPTIVE.with_task("digits", lr_on_digits)
    return Method(name, summary, _of(kind), ESTIMATES | {"betas", "adam_eps"}, rates=rates, **more)


METHODS = (
    _method("zo-adam", "Adam on the estimate (MeZO-Adam)", ZOAdam, 1e-2, coupled_decay=True),
    _method("zo-adamw", "the same with decoupled weight decay", ZOAdamW, 1e-2, weight_decay=0.01),
    _method("zo-adamax", "the same with the largest estimate below", ZOAdaMax, 3e-2, coupled_decay=True),
    _method("zo-adamm", "AMSGrad on the estimate (Chen et al. 2019)", ZOAdaMM, 1e-2, coupled_decay=True),
)
