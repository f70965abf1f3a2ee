"""From fp32 (fp64 for float64 tensors) to a tensor's dtype and back, as Triton device functions.

bf16 is rounded with integers: exact for subnormals, and the same under Triton's interpreter, whose
own fp32 -> bf16 conversion does not round ties to even.
"""

# mypy: allow-untyped-defs
# (annotations of device functions are Triton's, and only on arguments that need one)

import triton
import triton.language as tl

from .normal import as_bits, as_float


@triton.jit
def widen(p):
    """The tensor's values in the arithmetic's type: float64 for float64, fp32 for the rest."""
    if p.dtype == tl.bfloat16:
        value = as_float(p.to(tl.uint16, bitcast=True).to(tl.uint32) << 16)
    elif p.dtype == tl.float64:
        value = p
    else:
        value = p.to(tl.float32)
    return value


@triton.jit
def zeros(dtype: tl.constexpr, BLOCK: tl.constexpr):
    """[BLOCK] zeros in the arithmetic's type of a tensor of `dtype`."""
    if dtype == tl.float64:
        value = tl.zeros((BLOCK,), tl.float64)
    else:
        value = tl.zeros((BLOCK,), tl.float32)
    return value


@triton.jit
def shortened(value, STOCHASTIC: tl.constexpr):
    """fp32 that rounds to 16 bits as `value` does: fp64 is truncated, its last bit then set where it was not exact
    and is to be rounded to nearest (core/convert.h)."""
    if value.dtype == tl.float64:
        closest = value.to(tl.float32)
        back, size = tl.abs(closest.to(tl.float64)), tl.abs(value)
        finite = size < 2.0**128
        bits = as_bits(closest) - (finite & (back > size)).to(tl.uint32)
        if not STOCHASTIC:
            bits = bits | (finite & (back != size)).to(tl.uint32)
        short = as_float(bits)
    else:
        short = value
    return short


@triton.jit
def bf16_from_bits(bits):
    return (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@triton.jit
def nearest(value, dtype: tl.constexpr):
    """Round to nearest, ties to even; NaN stays NaN."""
    if dtype == tl.bfloat16:
        value = shortened(value, False)
        u = as_bits(value)
        even = u + 0x7FFF + ((u >> 16) & 1)
        rounded = bf16_from_bits(tl.where(value != value, u | 0x400000, even))
    elif dtype == tl.float16:
        rounded = shortened(value, False).to(dtype)
    else:
        rounded = value.to(dtype)
    return rounded


@triton.jit
def stochastic(value, random16, dtype: tl.constexpr):
    """Up with probability equal to the discarded part; infinities and NaN do not move.

    bf16: adds 16 random bits below the kept mantissa and truncates. fp16: likewise with 13 bits,
    and below 2**-14 on its fixed grid of 2**-24, where the sum is one IEEE addition.
    """
    value = shortened(value, True)
    u = as_bits(value)
    magnitude = u & 0x7FFFFFFF
    if dtype == tl.bfloat16:
        held = tl.where(value != value, u | 0x400000, u)
        moved = tl.where(magnitude < 0x7F800000, u + random16, held)
        rounded = bf16_from_bits(moved)
    else:
        normal = (u + (random16 >> 3)) & 0xFFFFE000
        tiny = magnitude < 0x38800000
        # other magnitudes are kept out of the conversion to integer: beyond 2**32 it is undefined
        steps = as_float(tl.where(tiny, magnitude, 0)) * 2.0**24
        steps += random16.to(tl.float32) * 2.0**-16
        grid = as_bits(steps.to(tl.uint32).to(tl.float32) * 2.0**-24) | (u & 0x80000000)
        moved = tl.where(tiny, grid, tl.where(magnitude < 0x7F800000, normal, u))
        rounded = as_float(moved).to(tl.float16)
    return rounded
