"""zk-v1 standard normals and Rademacher signs from Philox words, in exact fp32 arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from .exact import bits_to_float, float_to_bits, fma, sqrt
from .philox import block_words


def _fp32(text: str) -> float:
    value = float.fromhex(text)
    assert torch.tensor(value, dtype=torch.float32).item() == value
    return value


LN = _fp32("0x1.62e43p+0")
LOG = [
    _fp32(text)
    for text in (
        "-0x1.000048p+0", "0x1.ff6650p-3", "-0x1.62fad6p-4", "0x1.0a6c26p-6", "-0x1.71c37cp-5",
        "-0x1.edf9ccp-6", "-0x1.31e07cp-6",
    )
]  # fmt: skip
# fp32 roundings of the decimal constants of the stream's definition
SIN = [torch.tensor(v).item() for v in (0.785394251, -0.0807140023, 0.00242710602)]
COS = [torch.tensor(v).item() for v in (1.0, -0.308424264, 0.0158499163, -0.000318880688)]


def radius(w: Tensor) -> Tensor:
    """sqrt(-2 ln u) with u = (k + 1/2) / 2**23 from the low 23 bits k of `w`."""
    f = bits_to_float((w & 0x007FFFFF) | 0x4B000000) - 8388607.5
    bits = float_to_bits(f)
    t = bits_to_float(((bits >> 8) & 0x007F8000) | 0x43800000)
    d = bits_to_float((bits & 0x007FFFFF) | 0x3F800000) - 2.0
    e = (405.0 - t) * LN
    q = fma(LOG[6], d, LOG[5])
    for k in (4, 3, 2, 1, 0):
        q = fma(q, d, LOG[k])
    return sqrt(fma(q, d, e))


def normal_pair(w: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
    """The two normals of word `w`; `partner` lends the low angle bits."""
    r = radius(w)
    x = bits_to_float(((w >> 7) & 0x007F0000) | (partner & 0xFFFF) | 0x40000000) - 3.0
    y = x * x
    s = fma(fma(SIN[2], y, SIN[1]), y, SIN[0]) * x
    c = fma(fma(fma(COS[3], y, COS[2]), y, COS[1]), y, COS[0])
    c = bits_to_float(float_to_bits(c) ^ (w & 0x80000000))
    swap = (w & 0x40000000) != 0
    return r * torch.where(swap, s, c), r * torch.where(swap, c, s)


def _words(
    size: int, first: int, count: int, seed: int, stream: int, lane: int, device: torch.device
) -> Tensor:
    """Words of the blocks, each of `size` elements, that hold elements `first .. first + count`."""
    blocks = torch.arange(first // size, -(-(first + count) // size), device=device)
    return block_words(blocks, seed, stream, lane)


def gaussian(first: int, count: int, seed: int, stream: int, lane: int, device: torch.device) -> Tensor:
    """Normals of elements `first .. first + count` of a stream, fp32 `[count]`."""
    words = _words(8, first, count, seed, stream, lane, device)
    z = torch.stack(normal_pair(words, words[:, [1, 0, 3, 2]]), dim=2)  # [blocks, word, 2]
    return z.flatten()[first % 8 :][:count]


def rademacher(first: int, count: int, seed: int, stream: int, lane: int, device: torch.device) -> Tensor:
    """Signs of elements `first .. first + count`: +1 where the element's bit is clear, fp32 `[count]`."""
    words = _words(128, first, count, seed, stream, lane, device)
    bits = (words.unsqueeze(2) >> torch.arange(32, device=device)) & 1  # [blocks, word, bit]
    return (1.0 - 2.0 * bits.float()).flatten()[first % 128 :][:count]


def rounding_bits(first: int, count: int, seed: int, stream: int, device: torch.device) -> Tensor:
    """16 random bits an element from lane 2, int64 `[count]`."""
    words = _words(8, first, count, seed, stream, 2, device)
    return torch.stack([words & 0xFFFF, words >> 16], dim=2).flatten()[first % 8 :][:count]


DISTRIBUTIONS = {"gaussian": gaussian, "rademacher": rademacher}
