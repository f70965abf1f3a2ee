"""Dense updates: weights plus a multiple of fp32 tensors, rounded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..ops import add_dense_
from .engine import Apply, Batch


def add_(batch: Batch, dense: Sequence[Tensor], scale: float, apply: Apply, rounding: str, seed: int) -> None:
    """`target <- round(what the batch says + scale * dense)`.

    For fp32 and float64 that is the batch's pass and one `add_dense_`. 16-bit weights are
    widened one tensor at a time, so that the sum is rounded once; stochastic rounding takes the
    bits of `seed`, as `perturb_` does.
    """
    wide = [n for n, p in enumerate(batch.source) if p.dtype in (torch.float32, torch.float64)]
    if wide:
        part = batch.part(wide)
        apply(part)
        add_dense_(part.target, [dense[n] for n in wide], scale)
    for n in sorted(set(range(len(batch.source))) - set(wide)):
        source, target = batch.source[n], batch.target[n]
        value = [source.float()]
        apply(replace(batch, indices=[batch.indices[n]], source=value, target=value))
        add_dense_(
            value, [dense[n]], scale, rounding=rounding, seed=seed, streams=[batch.indices[n]], out=[target]
        )
