"""`add_dense_` in plain PyTorch: dense tensors added to a list, rounded once."""

from __future__ import annotations

import torch
from torch import Tensor

from .perturb import STOCHASTIC, walk


def add_dense_(
    params: list[Tensor], out: list[Tensor], dense: list[Tensor], scale: float, seed: int,
    streams: list[int], offsets: list[int], rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.add_dense`.

    fp32 and float64 are one `_foreach_add_`. A sum that is rounded to 16 bits is made in fp32: of the whole
    tensor where it is rounded to nearest, in pieces where every element has random bits of its own.
    """
    wide = [i for i, target in enumerate(out) if target.dtype not in STOCHASTIC]
    for i in wide:
        if out[i] is not params[i]:
            out[i].copy_(params[i])
    if wide:
        torch._foreach_add_([out[i] for i in wide], [dense[i] for i in wide], alpha=scale)
    for i in (i for i, target in enumerate(out) if target.dtype in STOCHASTIC):
        if rounding == "nearest":
            out[i].copy_(torch.add(params[i].float(), dense[i], alpha=scale))
            continue
        for piece, (p, target, d) in walk([streams[i]], [offsets[i]], [params[i]], [out[i]], [dense[i]]):
            value = torch.add(p.float(), d, alpha=scale).reshape(-1)
            target.copy_(piece.rounded(value, target.dtype, seed, rounding).view(p.shape))
