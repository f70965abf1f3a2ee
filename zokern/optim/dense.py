"""Rules that are not fused with the noise: weights plus a dense update, rounded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..ops import add_dense_
from .moves import Direction, Pass
from .perturbation import Directions


def moving_part(work: Pass, directions: Directions, grads: Mapping[Direction, object]) -> Pass | None:
    """The part of a pass that the directions of `grads` move, if any; the rest is carried out here."""
    if not directions.partial:
        return work
    parts = work.split(any(directions.moves(along, i) for along in grads) for i in work.indices)
    if False in parts:
        directions.apply(parts[False])
    return parts.get(True)


def add_(
    work: Pass, dense: Sequence[Tensor], scale: float, directions: Directions, rounding: str, seed: int
) -> None:
    """`target <- round(what the pass says + scale * dense)`.

    For fp32 and float64 that is the pass and one `add_dense_`. 16-bit weights are widened one
    tensor at a time, so that the sum is rounded once; stochastic rounding takes the bits of `seed`, as
    `perturb_` does.
    """
    wide = [n for n, p in enumerate(work.source) if p.dtype in (torch.float32, torch.float64)]
    if wide:
        part = work.part(wide)
        directions.apply(part)
        add_dense_(part.target, [dense[n] for n in wide], scale)
    for n in sorted(set(range(len(work.source))) - set(wide)):
        value, i, out = [work.source[n].float()], [work.indices[n]], [work.target[n]]
        directions.apply(replace(work, indices=i, source=value, target=value))
        add_dense_(value, [dense[n]], scale, rounding=rounding, seed=seed, streams=i, out=out)
