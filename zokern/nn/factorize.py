"""Sizes and ranks of tensor-train cores."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

__all__ = ["clip_ranks", "core_shapes", "factorize"]

Modes = tuple[Sequence[int], Sequence[int]]


@functools.lru_cache(maxsize=4096)
def _balanced(n: int, parts: int, least: int) -> tuple[int, ...] | None:
    """`parts` ascending factors of n, each at least `least`, with the smallest sum, if there are any."""
    if parts == 1:
        return (n,) if n >= least else None
    best: tuple[int, ...] | None = None
    for d in itertools.takewhile(lambda d: d**parts <= n, range(least, n + 1)):
        rest = _balanced(n // d, parts - 1, d) if n % d == 0 else None
        if rest is not None and (best is None or d + sum(rest) <= sum(best)):
            best = (d, *rest)
    return best


def is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_size(name: str, value: object) -> None:
    if not is_size(value):
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


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

    Cost: trial division up to sqrt(n) at most; results are kept.

    Source: table 9 of AdaZeta (Yang et al. 2024, arXiv:2406.18060) for 768, 4096, 64 and 8.

    Example:
        >>> factorize(768), factorize(768, descending=True), factorize(61)
        ([8, 8, 12], [12, 8, 8], [1, 1, 61])
    """
    check_size("n", n)
    check_size("parts", parts)
    factors = _balanced(n, parts, 1)
    assert factors is not None  # 1 is always allowed
    return list(factors[::-1] if descending else factors)


def resolve_modes(modes: Modes | None, **sizes: int) -> tuple[list[int], list[int]]:
    """The given modes of two sizes, checked against them, or near-balanced ones of three factors a side.

    Args:
        modes: (factors of the first size, factors of the second).
        sizes: the two, by the names that errors call them.

    Raises:
        ValueError: a size is not a positive integer, or modes do not multiply to the sizes.
    """
    for name, size in sizes.items():
        check_size(name, size)
    if modes is None:
        left, right = sizes.values()
        return factorize(left), factorize(right, descending=True)
    if len(modes) != 2:
        raise ValueError(f"modes must be (factors of {', factors of '.join(sizes)}), got {modes!r}")
    sides = (list(modes[0]), list(modes[1]))
    for side, (name, size) in zip(sides, sizes.items()):
        if math.prod(side) != size:
            raise ValueError(f"modes: {side} multiply to {math.prod(side)}, but {name} is {size}")
    return sides


def each_rank(rank: int | Sequence[int], cores: int) -> list[int]:
    """The rank of each boundary between so many cores: one for all of them, or as given."""
    ranks = [rank] * (cores - 1) if isinstance(rank, int) else list(rank)
    if len(ranks) != cores - 1:
        raise ValueError(
            f"rank has {len(ranks)} entries for {cores} cores, which have {cores - 1} inner ranks"
        )
    if not all(map(is_size, ranks)):
        raise ValueError(f"rank must be positive, got {rank!r}")
    return ranks


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
        if not modes or not all(map(is_size, modes)):
            raise ValueError(f"{name} must be positive integers, at least one, got {list(modes)}")
    sizes = [*in_modes, *out_modes]
    bounds = [1, *clip_ranks(sizes, each_rank(rank, len(sizes))), 1]
    return [(bounds[i], k, bounds[i + 1]) for i, k in enumerate(sizes)]
