"""x and out of a tensor-train call as matrices of rows, without copies where their strides allow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_tensor, extent, overlaps_itself
from .memory import check_in_memory


def as_rows(tensor: Tensor) -> Tensor | None:
    """A view `[rows, n]` with unit stride along n, or None where the strides allow none."""
    n = tensor.shape[-1]
    if n > 1 and tensor.stride(-1) != 1:
        return None
    try:
        return tensor.view(-1, n)
    except RuntimeError:
        return None


def check_out(out: Tensor, x: Tensor, features: int) -> None:
    """`out` can take y: shape, dtype, device, and memory apart from x's unless it is x's."""
    check_tensor("out", out)
    check_in_memory("out", out)
    shape = (*x.shape[:-1], features)
    if tuple(out.shape) != shape:
        raise ValueError(f"out has shape {tuple(out.shape)}, y has {shape}")
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    if out.dtype not in (x.dtype, wide):
        raise TypeError(f"out has dtype {out.dtype}, x {x.dtype}; out takes x's dtype or {wide}")
    if out.device != x.device:
        raise ValueError(f"out is on {out.device}, x on {x.device}")
    if (out is x and x.is_contiguous()) or out.numel() == 0 or x.device.type == "meta":
        return
    if torch.compiler.is_compiling():
        return
    if not out.is_contiguous() and overlaps_itself(out):
        raise ValueError(f"out overlaps itself in memory: shape {tuple(out.shape)}, strides {out.stride()}")
    same = out.data_ptr() == x.data_ptr() and out.stride() == x.stride() and out.dtype == x.dtype
    (a, b), (c, d) = extent(x), extent(out)
    if not same and a < d and c < b:
        raise ValueError("out and x overlap in memory; out may be x itself, or apart from it")


def through_rows(x: Tensor, out: Tensor, kernel: Callable[[Tensor, Tensor], None]) -> None:
    """Calls kernel(x, out) on matrices of rows; a dense copy stands in for what is not one."""
    source, target = as_rows(x), as_rows(out)
    if source is None:
        source = x.contiguous().view(-1, x.shape[-1])
    if target is not None:
        kernel(source, target)
        return
    dense = torch.empty(out.shape, dtype=out.dtype, device=out.device)
    kernel(source, dense.view(-1, out.shape[-1]))
    out.copy_(dense)
