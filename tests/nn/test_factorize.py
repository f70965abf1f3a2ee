from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zokern.nn.factorize import clip_ranks, core_shapes, factorize


@pytest.mark.parametrize(
    ("size", "expected"),
    [(768, [8, 8, 12]), (4096, [16, 16, 16]), (64, [4, 4, 4]), (8, [2, 2, 2]), (61, [1, 1, 61])],
)
def test_published_shapes(size: int, expected: list[int]) -> None:
    """Table 9 of the AdaZeta paper (and a prime); the output side is the mirror image."""
    assert factorize(size) == expected
    assert factorize(size, descending=True) == expected[::-1]


@given(n=st.integers(1, 10**7), parts=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_factors_multiply_to_any_size(n: int, parts: int) -> None:
    factors = factorize(n, parts)
    assert len(factors) == parts and math.prod(factors) == n and factors == sorted(factors)


def test_smallest_sum_of_three() -> None:
    for n in range(1, 200):
        divisors = [d for d in range(1, n + 1) if n % d == 0]
        triples = itertools.product(divisors, repeat=2)
        best = min(a + b + n // (a * b) for a, b in triples if n % (a * b) == 0)
        assert sum(factorize(n)) == best, n


@pytest.mark.parametrize(("n", "parts", "name"), [(0, 3, "n"), (-4, 3, "n"), (8, 0, "parts"), (True, 1, "n")])
def test_factorize_rejects_by_name(n: int, parts: int, name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be a positive integer"):
        factorize(n, parts)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_clipped_ranks_are_feasible_and_lose_nothing(sizes: list[int], data: st.DataObject) -> None:
    ranks = [data.draw(st.integers(1, 40)) for _ in sizes[1:]]
    clipped = clip_ranks(sizes, ranks)
    assert all(c <= r for c, r in zip(clipped, ranks))
    bounds = [1, *clipped, 1]
    for i, k in enumerate(sizes):
        assert bounds[i + 1] <= bounds[i] * k and bounds[i] <= k * bounds[i + 1]
    feasible = [min(math.prod(sizes[:i]), math.prod(sizes[i:])) for i in range(1, len(sizes))]
    if all(r >= f for r, f in zip(ranks, feasible)):
        assert clipped == feasible


def test_core_shapes() -> None:
    assert core_shapes([8, 8, 12], [4, 4, 4], 5) == [
        (1, 8, 5), (5, 8, 5), (5, 12, 5), (5, 4, 5), (5, 4, 4), (4, 4, 1),
    ]  # fmt: skip
    assert core_shapes([7], [3], 5) == [(1, 7, 3), (3, 3, 1)]
    assert core_shapes([4, 4], [4], [2, 9]) == [(1, 4, 2), (2, 4, 4), (4, 4, 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [4], 2), "in_modes must be positive integers, at least one"),
        (([4], [4, 0], 2), r"out_modes\[1\] must be a positive integer, got 0"),
        (([4], [4], 0), "rank must be a positive integer, got 0"),
        (([4, 4], [4], [2]), "rank has 1 entries for 3 cores"),
    ],
)
def test_core_shapes_rejects_by_name(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core_shapes(*arguments)
