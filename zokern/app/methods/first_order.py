"""First-order training through `torch.optim`, to compare with, in the face that the training loop expects.

A step is one forward and one backward pass over the step's batch. Gradients cannot be rebuilt from
logged losses, so a run of it resumes from its last checkpoint and repeats the steps since: the
same run again, but with their forward and backward passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zokern.app.methods.base import Closures, Method, Progress
from zokern.app.methods.rates import Rates
from zokern.app.options import TrainOptions
from zokern.optim import StepRecord

__all__ = ["FIRST_ORDER_STEP", "METHODS", "FirstOrder"]

FIRST_ORDER_STEP = 3.0
"""What a first-order step counts, in forward passes: a backward pass costs about two."""


class FirstOrder:
    """A `torch.optim` optimizer over the trainable parameters of `model`.

    Args:
        model: its parameters that require a gradient are trained.
        make: builds the optimizer from a list of parameters.
    """

    def __init__(self, model: nn.Module, make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> None:
        self.inner = make([p for p in model.parameters() if p.requires_grad])
        self.last = StepRecord()
        self.num_evaluations = self.skipped_steps = self._steps = 0

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.inner.param_groups

    def step(self, loss: Callable[[], Tensor]) -> float:
        """One step down the gradient of `loss()`; left out where the loss is not finite."""
        self.last = StepRecord(step=self._steps)
        with torch.enable_grad():
            value = loss()
            seen = value.item()
            if math.isfinite(seen):
                value.backward()  # type: ignore[no-untyped-call]
        if math.isfinite(seen):
            self.inner.step()
        else:
            self.last.skipped = True
            self.skipped_steps += 1
        self.inner.zero_grad(set_to_none=True)
        self.last.losses.append(seen)
        self.num_evaluations += 1
        self._steps += 1
        return seen

    def flush(self) -> None:
        """Nothing is ever pending."""

    def state_dict(self) -> dict[str, Any]:
        counts = (self._steps, self.num_evaluations, self.skipped_steps)
        return {"inner": self.inner.state_dict(), "counts": counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        self._steps, self.num_evaluations, self.skipped_steps = state["counts"]


def _adamw(model: nn.Module, options: TrainOptions) -> FirstOrder:
    assert options.lr is not None and options.weight_decay is not None  # resolved
    lr, decay, eps = options.lr, options.weight_decay, options.adam_eps
    return FirstOrder(
        model, lambda p: torch.optim.AdamW(p, lr=lr, betas=options.betas, eps=eps, weight_decay=decay)
    )


def _sgd(model: nn.Module, options: TrainOptions) -> FirstOrder:
    assert options.lr is not None and options.weight_decay is not None  # resolved
    lr, decay, momentum = options.lr, options.weight_decay, options.momentum
    return FirstOrder(model, lambda p: torch.optim.SGD(p, lr=lr, momentum=momentum, weight_decay=decay))


def _step(optimizer: Any, closures: Closures, progress: Progress) -> float:
    return float(optimizer.step(closures.tensor))


def _method(
    name: str, rule: str, build: Callable[[nn.Module, TrainOptions], Any], *reads: str, **more: Any
) -> Method:
    return Method(
        name,
        f"first-order {rule}, with backward passes",
        build,
        frozenset(reads),
        step=_step,
        replay=None,
        evaluation=lambda optimizer, options: FIRST_ORDER_STEP,
        forwards=lambda options, step: FIRST_ORDER_STEP,
        first_order=True,
        **more,
    )


_ADAMW_RATES = Rates(
    on_task={"digits": 3e-3},
    by_tuning={
        "lora": 1e-3,
        "prefix": 1e-2,
        "tt": 1e-3,
        "full": 2e-5,
        "last-layers": 1e-4,
        "head": 1e-2,
        "modules": 1e-4,
    },
)

_SGD_RATES = Rates(
    on_task={"digits": 3e-1},
    by_tuning={
        "lora": 1e-2,
        "prefix": 1e-1,
        "tt": 1e-2,
        "full": 1e-3,
        "last-layers": 1e-3,
        "head": 1e-1,
        "modules": 1e-3,
    },
)

METHODS = (
    _method(
        "fo-adamw",
        "AdamW",
        _adamw,
        "betas",
        "adam_eps",
        rates=_ADAMW_RATES,
        weight_decay=0.01,
        example=("", "first order, to compare with"),
    ),
    _method("fo-sgd", "SGD", _sgd, "momentum", rates=_SGD_RATES, coupled_decay=True),
)
