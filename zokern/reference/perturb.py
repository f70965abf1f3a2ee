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


def _pieces(source: Tensor, target: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(first logical index, source piece, target piece) along the leading dimensions, both views."""
    if source.numel() <= CHUNK or source.dim() == 0:
        yield 0, source, target
        return
    row = source.numel() // source.shape[0]
    rows = max(1, CHUNK // row)
    for start in range(0, source.shape[0], rows):
        for first, s, t in _pieces_of_rows(source, target, start, rows, row):
            yield start * row + first, s, t


def _pieces_of_rows(
    source: Tensor, target: Tensor, start: int, rows: int, row: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    if row <= CHUNK:
        yield 0, source[start : start + rows], target[start : start + rows]
    else:
        yield from _pieces(source[start], target[start])


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


def _moved(
    p: Tensor, first: int, seeds: list[int], scales: list[float], decay: float, stream: int,
    distribution: str, rounding: str,
) -> Tensor:  # fmt: skip
    """The new values of the flat piece `p`, in its dtype."""
    draw = DISTRIBUTIONS[distribution]
    double = p.dtype == torch.float64
    value = (p if double else p.float()) * decay
    for seed, scale in zip(seeds, scales):
        z = draw(first, p.numel(), seed, stream, 0, p.device)
        value = value + scale * z.double() if double else fma(scale, z, value)
    if rounding == "stochastic" and p.dtype in STOCHASTIC:
        random16 = rounding_bits(first, p.numel(), seeds[0], stream, p.device)
        return STOCHASTIC[p.dtype](value, random16)
    return value.to(p.dtype)


def perturb_(
    params: list[Tensor], out: list[Tensor], seeds: list[int], scales: list[float], decay: float,
    streams: list[int], offsets: list[int], distribution: str, rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.perturb`."""
    for source, target, stream, offset in zip(params, out, streams, offsets):
        for first, s, t in _pieces(source, target):
            moved = _moved(
                s.reshape(-1), offset + first, seeds, scales, decay, stream, distribution, rounding
            )
            t.copy_(moved.view(t.shape))


def normal_(out: Tensor, seed: int, stream: int, lane: int, offset: int, distribution: str) -> None:
    """Fills `out` with the stream's values, rounded to its dtype."""
    for first, _, t in _pieces(out, out):
        z = DISTRIBUTIONS[distribution](offset + first, t.numel(), seed, stream, lane, t.device)
        t.copy_(z.view(t.shape))
