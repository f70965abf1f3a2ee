"""Notices a run whose losses do not depend on the trained weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .engine import Trainables

PATIENCE = 3
"""Steps in a row."""

_SAMPLE = 4096  # elements a tensor


class EqualLosses:
    """Counts steps in a row whose losses, at different points, are equal to the last bit."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self.told = False

    def see(
        self, losses: Sequence[float], trainables: Trainables, groups: Sequence[Mapping[str, Any]]
    ) -> None:
        """Takes a step's losses; warns once, at the third such step in a row."""
        if len(losses) < 2:
            return
        equal = math.isfinite(losses[0]) and losses.count(losses[0]) == len(losses)
        self.in_a_row = self.in_a_row + 1 if equal else 0
        if self.in_a_row < PATIENCE or self.told:
            return
        self.told = True
        warnings.warn(_message(losses[0], trainables, groups), RuntimeWarning, stacklevel=5)


def _message(loss: float, trainables: Trainables, groups: Sequence[Mapping[str, Any]]) -> str:
    causes = [
        "the closure does not read the trained weights (an adapter that is switched off or merged, a copy of "
        "the model, weights that an engine has packed, a constant loss)",
        "the loss is computed or returned in 16 bits, or has no slope at this scale (accuracy)",
    ]
    moved = share_moved(trainables, groups)
    if moved is not None and moved < 0.5:
        causes.insert(
            0,
            f"eps = {groups[0]['eps']:g} is below the rounding of 16-bit weights: of those sampled a "
            f"perturbation changes {moved:.1%}",
        )
    return (
        f"the losses of a step have been equal to the last bit for {PATIENCE} steps in a row (now {loss!r}): "
        f"the estimates are 0 and nothing is learned. Likely causes: " + "; ".join(causes)
    )


def share_moved(trainables: Trainables, groups: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of the 16-bit weights (a sample) that eps, one standard deviation of the noise, changes by
    rounding to nearest; None where no weight has 16 bits."""
    changed = count = 0
    for p, g in zip(trainables.params, trainables.group):
        if p.dtype not in (torch.bfloat16, torch.float16) or not p.numel():
            continue
        weights = p.detach().reshape(-1)[:_SAMPLE] if p.is_contiguous() else p.detach().flatten()[:_SAMPLE]
        changed += int((weights.float().add(float(groups[g]["eps"])).to(p.dtype) != weights).sum())
        count += weights.numel()
    return changed / count if count else None
