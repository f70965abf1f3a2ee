"""First-order training through `torch.optim`, in the face that the training loop expects.

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

from zokern.optim import StepRecord

__all__ = ["FirstOrder"]


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
