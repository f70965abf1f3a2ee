"""`perturb_` and `normal_` in plain PyTorch.

    p <- round_to_dtype( fma(scale_k, z_k, ... fma(scale_0, z_0, decay * float(p))) )

fp32 arithmetic for fp32, bf16 and fp16 parameters. For float64, `decay * p` and the sums are float64
and each product scale * z (two fp32 numbers) is exact.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .exact import bits_to_float, float_to_bits, fma
from .normal import DISTRIBUTIONS, rounding_bits

CHUNK = 1 << 18


def pieces(*tensors: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """(first logical index, views of all tensors) along the leading dimensions, `CHUNK` elements at
    most a piece."""
    whole = tensors[0]
    if whole.numel() <= CHUNK or whole.dim() == 0:
        yield 0, tensors
        return
    row = whole.numel() // whole.shape[0]
    rows = max(1, CHUNK // row)
    for start in range(0, whole.shape[0], rows):
        if row <= CHUNK:
            yield start * row, tuple(t[start : start + rows] for t in tensors)
        else:
            for first, views in pieces(*(t[start] for t in tensors)):
                yield start * row + first, views


def stochastic_bf16(x: Tensor, random16: Tensor) -> Tensor:
    """fp32 to bf16: adds 16 random bits below the kept mantissa and truncates; inf and NaN stay."""
    rounded = bits_to_float((float_to_bits(x) + random16) & 0xFFFF0000)
    return torch.where(torch.isfinite(x), rounded, x).bfloat16()


def stochastic_fp16(x: Tensor, random16: Tensor) -> Tensor:
    """fp32 to fp16: as bf16 with 13 discarded bits; below 2**-14 on fp16's fixed grid of 2**-24."""
    bits = float_to_bits(x)
    normal = bits_to_float((bits + (random16 >> 3)) & 0xFFFFE000)
    steps = x.abs() * 16777216.0 + random16.float() * 2.0**-16
    tiny = torch.copysign(steps.clamp(max=2048.0).floor() * 2.0**-24, x)
    rounded = torch.where(x.abs() >= 2.0**-14, normal, tiny)
    return torch.where(torch.isfinite(x), rounded, x).half()


STOCHASTIC = {torch.bfloat16: stochastic_bf16, torch.float16: stochastic_fp16}


def rounded(value: Tensor, dtype: torch.dtype, first: int, seed: int, stream: int, rounding: str) -> Tensor:
    """The flat `value`, whose first element has index `first`, in `dtype`."""
    if rounding == "stochastic" and dtype in STOCHASTIC:
        return STOCHASTIC[dtype](value, rounding_bits(first, value.numel(), seed, stream, value.device))
    return value.to(dtype)


def decayed(p: Tensor, decay: float) -> Tensor:
    """`decay * p` in the arithmetic's type: float64 for float64, fp32 for the rest."""
    return (p if p.dtype == torch.float64 else p.float()) * decay


def plus(value: Tensor, scale: float, z: Tensor) -> Tensor:
    """`value + scale * z` rounded once; in float64 the product of the two fp32 numbers is exact."""
    return value + scale * z.double() if value.dtype == torch.float64 else fma(scale, z, value)


def moved(
    p: Tensor, first: int, seeds: list[int], scales: list[float], decay: float, stream: int,
    distribution: str, rounding: str,
) -> Tensor:  # fmt: skip
    """The new values of the piece `p`, in its shape and dtype."""
    value = decayed(p.reshape(-1), decay)
    for seed, scale in zip(seeds, scales):
        z = DISTRIBUTIONS[distribution](first, p.numel(), seed, stream, 0, p.device)
        value = plus(value, scale, z)
    key = seeds[0] if seeds else 0
    return rounded(value, p.dtype, first, key, stream, rounding).view(p.shape)


def perturb_(
    params: list[Tensor], out: list[Tensor], seeds: list[int], scales: list[float], decay: float,
    streams: list[int], offsets: list[int], distribution: str, rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.perturb`."""
    move = (seeds, scales, decay)
    for source, target, stream, offset in zip(params, out, streams, offsets):
        for first, (s, t) in pieces(source, target):
            t.copy_(moved(s, offset + first, *move, stream, distribution, rounding))


def normal_(out: Tensor, seed: int, stream: int, lane: int, offset: int, distribution: str) -> None:
    """Fills `out` with the stream's values, rounded to its dtype."""
    for first, (t,) in pieces(out):
        z = DISTRIBUTIONS[distribution](offset + first, t.numel(), seed, stream, lane, t.device)
        t.copy_(z.view(t.shape))
