"""`perturb_` and `normal_` in plain PyTorch.

    p <- round_to_dtype( fma(scale_k, z_k, ... fma(scale_0, z_0, decay * float(p))) )

fp32 arithmetic for fp32, bf16 and fp16 parameters. For float64, `decay * p` and the sums are float64
and each product scale * z (two fp32 numbers) is exact. The result is rounded once to the dtype of what is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .exact import bits_to_float, float_to_bits, fma, shortened
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


@dataclass(frozen=True)
class Piece:
    """Elements `first .. first + count` of a stream: those of a piece of tensor number `tensor`."""

    tensor: int
    first: int
    count: int
    stream: int
    device: torch.device

    def z(self, seed: int, distribution: str = "gaussian", lane: int = 0) -> Tensor:
        """The noise, fp32 `[count]`."""
        return DISTRIBUTIONS[distribution](self.first, self.count, seed, self.stream, lane, self.device)

    def rounded(self, value: Tensor, dtype: torch.dtype, seed: int, rounding: str) -> Tensor:
        """The flat `value` in `dtype`."""
        stochastic = rounding == "stochastic" and dtype in STOCHASTIC
        if dtype in STOCHASTIC and value.dtype == torch.float64:
            value = shortened(value, stochastic)
        if stochastic:
            bits = rounding_bits(self.first, self.count, seed, self.stream, self.device)
            return STOCHASTIC[dtype](value, bits)
        return value.to(dtype)


def walk(
    streams: list[int], offsets: list[int], *lists: list[Tensor]
) -> Iterator[tuple[Piece, tuple[Tensor, ...]]]:
    """Every piece of the tensors, with the views of it in each of the lists. An absent list, [], has none."""
    for i, (stream, offset, *tensors) in enumerate(zip(streams, offsets, *filter(None, lists))):
        for first, views in pieces(*tensors):
            yield Piece(i, offset + first, views[0].numel(), stream, views[0].device), views


def decayed(p: Tensor, decay: float) -> Tensor:
    """The flat `decay * p` in the arithmetic's type: float64 for float64, fp32 for the rest. With decay = 0 it is
    0 whatever p holds."""
    wide = torch.promote_types(p.dtype, torch.float32)
    return (
        torch.zeros(p.numel(), dtype=wide, device=p.device)
        if decay == 0.0
        else p.reshape(-1).to(wide) * decay
    )


def plus(value: Tensor, scale: float, z: Tensor) -> Tensor:
    """`value + scale * z` rounded once; in float64 the product of the two fp32 numbers is exact."""
    return value + scale * z.double() if value.dtype == torch.float64 else fma(scale, z, value)


def moved(
    piece: Piece, p: Tensor, seeds: list[int], scales: list[float], decay: float, distribution: str,
    rounding: str, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """The new values of `p`, in its shape and `dtype`."""
    value = decayed(p, decay)
    for seed, scale in zip(seeds, scales):
        value = plus(value, scale, piece.z(seed, distribution))
    return piece.rounded(value, dtype, seeds[0] if seeds else 0, rounding).view(p.shape)


def perturb_(
    params: list[Tensor], out: list[Tensor], seeds: list[int], scales: list[float], decay: float,
    streams: list[int], offsets: list[int], distribution: str, rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.perturb`."""
    for piece, (p, target) in walk(streams, offsets, params, out):
        target.copy_(moved(piece, p, seeds, scales, decay, distribution, rounding, target.dtype))


def normal_(out: Tensor, seed: int, stream: int, lane: int, offset: int, distribution: str) -> None:
    """Fills `out` with the stream's values, rounded to its dtype."""
    for piece, (target,) in walk([stream], [offset], [out]):
        target.copy_(piece.z(seed, distribution, lane).view(target.shape))
