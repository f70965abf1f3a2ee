"""SPSA in plain float64, for the oracles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

import zokern
from tests.optim.problems import EPS

Loss = Callable[[Sequence[Tensor]], float]


def estimate(
    weights: Sequence[Tensor], loss: Loss, seeds: Sequence[int], masks: Sequence[Tensor] | None = None
) -> tuple[float, list[Tensor]]:
    """Mean loss and mean two-sided estimate over the seeds, of the elements that `masks` lets move."""
    total, grad = 0.0, [w * 0 for w in weights]
    for seed in seeds:
        z = [zokern.normal(w.shape, seed, stream=i).double() for i, w in enumerate(weights)]
        if masks is not None:
            z = [d * m for d, m in zip(z, masks)]
        plus = loss([w + EPS * d for w, d in zip(weights, z)])
        minus = loss([w - EPS * d for w, d in zip(weights, z)])
        total += (plus + minus) / (2 * len(seeds))
        g = (plus - minus) / (2 * EPS * len(seeds))
        grad = [a + g * d for a, d in zip(grad, z)]
    return total, grad


def mean_estimate(
    options: dict[str, Any], weights: list[Tensor], loss: Loss, t: int, masks: list[Tensor] | None = None
) -> tuple[float, list[Tensor]]:
    """The estimate of step t for a method's options, of the elements that `masks` lets move."""
    seeds = [zokern.derive_seed(0, t, query) for query in range(options.get("num_queries", 1))]
    if not options.get("one_sided"):
        return estimate(weights, loss, seeds, masks)
    base, grad = loss(weights), [w * 0 for w in weights]
    for seed in seeds:
        z = [zokern.normal(w.shape, seed, stream=i).double() for i, w in enumerate(weights)]
        g = (loss([w + EPS * d for w, d in zip(weights, z)]) - base) / (EPS * len(seeds))
        grad = [a + g * d for a, d in zip(grad, z)]
    return base, grad
