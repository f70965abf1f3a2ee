"""`perturb_masked_` in plain PyTorch: `perturb_` where the mask says so."""

from __future__ import annotations

import torch
from torch import Tensor

from .perturb import moved, pieces


def perturb_masked_(
    params: list[Tensor], out: list[Tensor], masks: list[Tensor], thresholds: list[float],
    seeds: list[int], scales: list[float], decay: float, streams: list[int], offsets: list[int],
    distribution: str, rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.masked`."""
    move = (seeds, scales, decay)
    for i, (source, target, stream, offset) in enumerate(zip(params, out, streams, offsets)):
        for first, (s, t, *mask) in pieces(source, target, *masks[i : i + 1]):
            chosen = (
                mask[0] if mask else s.abs().to(torch.promote_types(s.dtype, torch.float32)) <= thresholds[i]
            )
            t.copy_(torch.where(chosen, moved(s, offset + first, *move, stream, distribution, rounding), s))
