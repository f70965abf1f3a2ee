"""Rules that are not fused with the noise: weights plus a dense update, rounded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..reference.normal import rounding_bits
from ..reference.perturb import STOCHASTIC
from .moves import Direction, Pass
from .perturbation import Directions

CHUNK = 1 << 20


def split_moving(
    work: Pass, directions: Directions, grads: Mapping[Direction, object]
) -> tuple[Pass | None, Pass | None]:
    """The parts of a pass that the directions of `grads` move and do not move."""
    moving = [n for n, i in enumerate(work.indices) if any(directions.moves(along, i) for along in grads)]
    if len(moving) == len(work.indices):
        return work, None
    resting = sorted(set(range(len(work.indices))) - set(moving))
    return (work.part(moving) if moving else None), work.part(resting)


def add_(
    work: Pass, dense: Sequence[Tensor], scale: float, directions: Directions, rounding: str, seed: int
) -> None:
    """`target <- round(what the pass says + scale * dense)`.

    For fp32 and float64 that is the pass and one `_foreach_add_`. 16-bit weights are widened one
    tensor at a time, so that the sum is rounded once; stochastic rounding takes the bits of `seed`, as
    `perturb_` does.
    """
    wide = [n for n, p in enumerate(work.source) if p.dtype in (torch.float32, torch.float64)]
    if wide:
        part = work.part(wide)
        directions.apply(part)
        torch._foreach_add_(part.target, [dense[n] for n in wide], alpha=scale)
    for n in sorted(set(range(len(work.source))) - set(wide)):
        source, target = work.source[n], work.target[n]
        value = [source.float()]
        directions.apply(replace(work, indices=[work.indices[n]], source=value, target=value))
        value[0].add_(dense[n], alpha=scale)
        target.copy_(_rounded(value[0], target.dtype, rounding, seed, work.indices[n]))


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
