"""`perturb_masked_` in plain PyTorch: `perturb_` where the mask says so."""

from __future__ import annotations

import torch
from torch import Tensor

from .perturb import moved, walk


def perturb_masked_(
    params: list[Tensor], out: list[Tensor], masks: list[Tensor], thresholds: list[float],
    seeds: list[int], scales: list[float], decay: float, streams: list[int], offsets: list[int],
    distribution: str, rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.masked`."""
    for piece, (p, target, *mask) in walk(streams, offsets, params, out, masks):
        if mask:
            (chosen,) = mask
        else:
            wide = p.abs().to(torch.promote_types(p.dtype, torch.float32))
            chosen = wide <= thresholds[piece.tensor]
        new = moved(piece, p, seeds, scales, decay, distribution, rounding, p.dtype)
        target.copy_(torch.where(chosen, new, p))
