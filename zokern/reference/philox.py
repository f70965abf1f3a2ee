"""Philox4x32-R on int64 tensors, and the counter layout of the zk-v1 stream.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .exact import MASK32

ROUNDS = 10


def philox(counter: Sequence[Tensor], key: tuple[int, int], rounds: int = ROUNDS) -> list[Tensor]:
    """Encrypts `counter` (four int64 tensors holding 32-bit words) under `key`; returns four words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        # int64 products wrap, but the 64 bits are the right ones; the mask drops the sign extension
        p0 = c0 * 0xD2511F53
        p1 = c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((p1 >> 32) & MASK32) ^ c1 ^ k0,
            p1 & MASK32,
            ((p0 >> 32) & MASK32) ^ c3 ^ k1,
            p0 & MASK32,
        )
        k0 = (k0 + 0x9E3779B9) & MASK32
        k1 = (k1 + 0xBB67AE85) & MASK32
    return [c0, c1, c2, c3]


def block_words(blocks: Tensor, seed: int, stream: int, lane: int, rounds: int = ROUNDS) -> Tensor:
    """Words of the blocks (int64 indices): `[n_blocks, 4]` int64 values in [0, 2**32)."""
    zeros = torch.zeros_like(blocks)
    counter = [blocks & MASK32, (blocks >> 32) & MASK32, zeros + stream, zeros + lane]
    return torch.stack(philox(counter, (seed & MASK32, seed >> 32), rounds), dim=1)
