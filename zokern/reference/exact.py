"""IEEE fp32 arithmetic that PyTorch does not offer everywhere: fused multiply-add, correctly rounded
square root and quotient.

All go through float64. A product of two fp32 numbers is exact there; the sum is made round-to-odd,
after which the rounding to fp32 is the only one that counts (Boldo and Melquiond, 2008).
"""

from __future__ import annotations

import torch
from torch import Tensor

MASK32 = 0xFFFFFFFF


def fma(a: Tensor | float, b: Tensor | float, c: Tensor | float) -> Tensor:
    """fp32 `a * b + c` rounded once. Python floats must be fp32 values already."""
    a64, b64, c64 = (v.double() if isinstance(v, Tensor) else v for v in (a, b, c))
    product = torch.as_tensor(a64 * b64, dtype=torch.float64)
    total = product + c64
    # two-sum: `error` is what the addition lost, exactly
    back = total - product
    error = (product - (total - back)) + (c64 - back)
    bits = total.view(torch.int64)
    inexact_even = (error != 0) & (bits & 1 == 0) & torch.isfinite(total)
    toward = torch.where((error > 0) == (total > 0), 1, -1)
    odd = torch.where(inexact_even, bits + toward, bits).view(torch.float64)
    return odd.float()


def sqrt(x: Tensor) -> Tensor:
    """Correctly rounded fp32 square root (`torch.sqrt` of fp32 on CPU is not: 0.57 % of inputs differ)."""
    return torch.sqrt(x.double()).float()


def div(a: Tensor, b: Tensor) -> Tensor:
    """Correctly rounded fp32 quotient: a quotient of fp32 numbers is never so close to the middle
    between two others that rounding it to float64 first could matter."""
    return (a.double() / b.double()).float()


def shortened(x: Tensor, truncated: bool) -> Tensor:
    """The fp32 numbers that round to 16 bits as float64 `x` does: without the bits that fp32 has no place for.
    Unless `truncated`, the last bit is set where that changed x: round-to-odd, as in `fma`."""
    closest = x.float()
    back, size = closest.double().abs(), x.abs()
    finite = size < 2.0**128
    bits = float_to_bits(closest) - (finite & (back > size)).to(torch.int64)
    return bits_to_float(bits if truncated else bits | (finite & (back != size)).to(torch.int64))


def bits_to_float(bits: Tensor) -> Tensor:
    """Reinterprets int64 values in [0, 2**32) as fp32."""
    return torch.where(bits >= 1 << 31, bits - (1 << 32), bits).to(torch.int32).view(torch.float32)


def float_to_bits(x: Tensor) -> Tensor:
    """Reinterprets fp32 as int64 values in [0, 2**32)."""
    return x.view(torch.int32).to(torch.int64) & MASK32
