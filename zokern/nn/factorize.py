"""Sizes and ranks of tensor-train cores."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

from ..call.checks import as_integer, as_sequence, check_flag, plain_number, shown

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


LARGEST = 1 << 31
"""Sizes end below: finding factors takes the square root of as many steps."""


def check_size(name: str, value: object) -> int:
    """`value` as an int from 1 on."""
    size = as_integer(name, value, "a positive integer", ValueError)
    if not 1 <= size < LARGEST:
        bound = "a positive integer" if size < 1 else "below 2**31"
        raise ValueError(f"{name} must be {bound}, got {shown(value)}")
    return size


def check_sizes(name: str, values: object) -> list[int]:
    """A list of positive integers, at least one."""
    sizes = [check_size(f"{name}[{i}]", v) for i, v in enumerate(as_sequence(name, values))]
    if not sizes:
        raise ValueError(f"{name} must be positive integers, at least one, got []")
    return sizes


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
    n, parts = check_size("n", n), check_size("parts", parts)
    descending = check_flag("descending", descending)
    if parts > 64:
        raise ValueError(f"parts must be at most 64, got {parts}")
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
    sizes = {name: check_size(name, size) for name, size in sizes.items()}
    if modes is None:
        left, right = sizes.values()
        return factorize(left), factorize(right, descending=True)
    wanted = f"(factors of {', factors of '.join(sizes)})"
    given = as_sequence("modes", modes, wanted)
    if len(given) != 2:
        raise ValueError(f"modes must be {wanted}, got {shown(modes)}")
    sides = (check_sizes("modes[0]", given[0]), check_sizes("modes[1]", given[1]))
    for side, (name, size) in zip(sides, sizes.items()):
        if math.prod(side) != size:
            raise ValueError(f"modes: {side} multiply to {math.prod(side)}, but {name} is {size}")
    return sides


def each_rank(rank: int | Sequence[int], cores: int) -> list[int]:
    """The rank of each boundary between so many cores: one for all of them, or as given."""
    one = plain_number(rank)
    if isinstance(one, (int, float)):
        return [check_size("rank", one)] * (cores - 1)
    ranks = [
        check_size(f"rank[{i}]", r)
        for i, r in enumerate(as_sequence("rank", rank, "a positive integer or a list of them"))
    ]
    if len(ranks) != cores - 1:
        raise ValueError(
            f"rank has {len(ranks)} entries for {cores} cores, which have {cores - 1} inner ranks"
        )
    return ranks


def plain_rank(rank: Any) -> int | list[int]:
    """A rank, or ranks, as a file can hold them."""
    one = plain_number(rank)
    return check_size("rank", one) if isinstance(one, (int, float)) else check_sizes("rank", rank)


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
    in_modes: Sequence[int], out_modes: Sequence[int], rank: int | Sequence[int], clip: bool = True
) -> list[tuple[int, int, int]]:
    """Shapes (r_{i-1}, k_i, r_i) of the cores of an in x out matrix.

    Args:
        in_modes: factors of the input size, at least one.
        out_modes: factors of the output size, at least one.
        rank: one for all inner ranks, or each of them.
        clip: whether ranks are lowered to what is feasible.

    Raises:
        ValueError: a mode or rank is not a positive integer, or the number of ranks does not fit.
    """
    sizes = [*check_sizes("in_modes", in_modes), *check_sizes("out_modes", out_modes)]
    ranks = each_rank(rank, len(sizes))
    bounds = [1, *(clip_ranks(sizes, ranks) if clip else ranks), 1]
    return [(bounds[i], k, bounds[i + 1]) for i, k in enumerate(sizes)]
