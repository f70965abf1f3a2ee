"""Dense updates: weights plus a multiple of fp32 tensors, rounded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..reference.normal import rounding_bits
from ..reference.perturb import STOCHASTIC
from .engine import Apply, Batch

CHUNK = 1 << 20


def add_(batch: Batch, dense: Sequence[Tensor], scale: float, apply: Apply, rounding: str, seed: int) -> None:
    """`target <- round(what the batch says + scale * dense)`.

    For fp32 and float64 that is the batch's pass and one `_foreach_add_`. 16-bit weights are
    widened one tensor at a time, so that the sum is rounded once; stochastic rounding takes the
    bits of `seed`, as `perturb_` does.
    """
    wide = [n for n, p in enumerate(batch.source) if p.dtype in (torch.float32, torch.float64)]
    if wide:
        part = batch.part(wide)
        apply(part)
        torch._foreach_add_(part.target, [dense[n] for n in wide], alpha=scale)
    for n in sorted(set(range(len(batch.source))) - set(wide)):
        source, target = batch.source[n], batch.target[n]
        value = [source.float()]
        apply(replace(batch, indices=[batch.indices[n]], source=value, target=value))
        value[0].add_(dense[n], alpha=scale)
        target.copy_(_rounded(value[0], target.dtype, rounding, seed, batch.indices[n]))


def _rounded(value: Tensor, dtype: torch.dtype, rounding: str, seed: int, stream: int) -> Tensor:
    if rounding == "nearest":
        return value.to(dtype)
    flat = value.reshape(-1)
    rounded = torch.empty_like(flat, dtype=dtype)
    for start in range(0, flat.numel(), CHUNK):
        piece = flat[start : start + CHUNK]
        bits = rounding_bits(start, piece.numel(), seed, stream, value.device)
        rounded[start : start + CHUNK] = STOCHASTIC[dtype](piece, bits)
    return rounded.view(value.shape)
