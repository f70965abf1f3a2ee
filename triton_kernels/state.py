"""What the kernels share that touch more memory than the parameters: state, masks."""

# mypy: allow-untyped-defs
# (annotations of device functions are Triton's, and only on arguments that need one)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from .normal import rounding_bits
from .perturb import OPTIONS, inside
from .rounding import nearest, stochastic


@triton.jit
def read(pointers, interior, start, n, BLOCK: tl.constexpr):
    """The block's elements; only programs that reach over an end of the tensor use a mask."""
    if interior:
        x = tl.load(pointers)
    else:
        x = tl.load(pointers, inside(start, n, BLOCK))
    return x


@triton.jit
def write(pointers, x, interior, start, n, BLOCK: tl.constexpr):
    if interior:
        tl.store(pointers, x)
    else:
        tl.store(pointers, x, inside(start, n, BLOCK))


@triton.jit
def scaled(value, scale, z):
    """value + scale * z, rounded once, in value's type: fp32, or fp64 where the product is exact."""
    return tl.fma(z.to(value.dtype), tl.cast(scale, tl.float32).to(value.dtype), value)


@triton.jit
def rounded(value, octet, seed, stream, STOCHASTIC: tl.constexpr, dtype: tl.constexpr, BLOCK: tl.constexpr):
    if STOCHASTIC:
        result = stochastic(value, rounding_bits(octet, seed.to(tl.uint64), stream, BLOCK), dtype)
    else:
        result = nearest(value, dtype)
    return result


def options(sizes: tuple[int, ...]) -> dict[str, Any]:
    """Launch options. Offsets of several strided memories take registers: 8 elements a thread, not 16
    (with 16 and eight dimensions all of them spill; Triton 3.9, sm_80, 90 and 100)."""
    return {**OPTIONS, "num_warps": 2 * OPTIONS["num_warps"]} if sizes else OPTIONS


def is_stochastic(rounding: str, dtype: torch.dtype) -> bool:
    """Whether the rounding mode matters."""
    return rounding == "stochastic" and dtype in (torch.bfloat16, torch.float16)
