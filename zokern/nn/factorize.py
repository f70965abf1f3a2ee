"""Sizes and ranks of tensor-train cores."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

__all__ = ["clip_ranks", "core_shapes", "factorize"]


def _prime_factors(n: int) -> dict[int, int]:
    factors: dict[int, int] = {}
    p = 2
    while p * p <= n:
        while n % p == 0:
            factors[p] = factors.get(p, 0) + 1
            n //= p
        p += 1
    if n > 1:
        factors[n] = factors.get(n, 0) + 1
    return factors


def _divisors(n: int) -> list[int]:
    divisors = [1]
    for p, power in _prime_factors(n).items():
        divisors = [d * p**k for d in divisors for k in range(power + 1)]
    return sorted(divisors)


@functools.lru_cache(maxsize=4096)
def _balanced(n: int, parts: int, least: int) -> tuple[int, ...] | None:
    """`parts` ascending factors of n, each at least `least`, with the smallest sum."""
    if parts == 1:
        return (n,) if n >= least else None
    best: tuple[int, ...] | None = None
    for d in _divisors(n):
        if d < least or d**parts > n:
            continue
        rest = _balanced(n // d, parts - 1, d)
        if rest is not None and (best is None or d + sum(rest) <= sum(best)):
            best = (d, *rest)
    return best


def factorize(n: int, parts: int = 3, *, descending: bool = False) -> list[int]:
    """Factors of n with the smallest sum, which is what the cores' size grows with.

    Args:
        n: the size, >= 1.
        parts: how many factors, >= 1. A size with fewer prime factors gets 1s: 61 is [1, 1, 61].
        descending: largest first, as the sizes on the output side of a tensor train are written.

    Returns:
        The factors, ascending (768 is [8, 8, 12], 4096 is [16, 16, 16]) or descending.

    Raises:
        ValueError: n or parts is not a positive integer.

    Source: table 9 of AdaZeta (Yang et al. 2024, arXiv:2406.18060) for 768, 4096, 64 and 8.

    Example:
        >>> factorize(768), factorize(768, descending=True), factorize(61)
        ([8, 8, 12], [12, 8, 8], [1, 1, 61])
    """
    for name, value in (("n", n), ("parts", parts)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    factors = _balanced(n, parts, 1)
    assert factors is not None  # 1 is always allowed
    return list(factors[::-1] if descending else factors)


def clip_ranks(sizes: Sequence[int], ranks: Sequence[int]) -> list[int]:
    """The ranks, each lowered to the most that matrices of these sizes can make use of.

    The i-th inner rank is the rank of a matrix between what is left of it and what is right of it: no
    more than either side's size. Larger ones add parameters that change nothing.

    Args:
        sizes: size of each core's own index.
        ranks: the inner ranks, one fewer than sizes.
    """
    clipped = [1, *ranks, 1]
    for i in range(1, len(sizes)):  # rank grows at most by the factor of the core passed
        clipped[i] = min(clipped[i], clipped[i - 1] * sizes[i - 1])
    for i in range(len(sizes) - 1, 0, -1):
        clipped[i] = min(clipped[i], clipped[i + 1] * sizes[i])
    return clipped[1:-1]


def core_shapes(
    in_modes: Sequence[int], out_modes: Sequence[int], rank: int | Sequence[int]
) -> list[tuple[int, int, int]]:
    """Shapes (r_{i-1}, k_i, r_i) of the cores of an in x out matrix.

    Args:
        in_modes: factors of the input size, at least one.
        out_modes: factors of the output size, at least one.
        rank: one for all inner ranks, or each of them; clipped to what is feasible.

    Raises:
        ValueError: a mode or rank is not a positive integer, or the number of ranks does not fit.
    """
    for name, modes in (("in_modes", in_modes), ("out_modes", out_modes)):
        if not modes or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in modes):
            raise ValueError(f"{name} must be positive integers, at least one, got {list(modes)}")
    sizes = [*in_modes, *out_modes]
    ranks = [rank] * (len(sizes) - 1) if isinstance(rank, int) else list(rank)
    if len(ranks) != len(sizes) - 1:
        raise ValueError(
            f"rank has {len(ranks)} entries for {len(sizes)} cores, which have {len(sizes) - 1} inner ranks"
        )
    if any(isinstance(r, bool) or not isinstance(r, int) or r < 1 for r in ranks):
        raise ValueError(f"rank must be positive, got {rank!r}")
    bounds = [1, *clip_ranks(sizes, ranks), 1]
    return [(bounds[i], k, bounds[i + 1]) for i, k in enumerate(sizes)]


def size_of(shapes: Sequence[Sequence[int]]) -> int:
    """Elements in all."""
    return sum(math.prod(shape) for shape in shapes)
