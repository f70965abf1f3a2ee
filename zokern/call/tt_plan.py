"""The planner of tensor-train contractions: which groups of cores to contract before x meets them.

A layer has four groups, two of which may be left out (`csrc/core/tt.h` writes them as formulas):

    left   cores [0, in_cut)       contracted first with x; left out: in_cut = 0
    middle cores [in_cut, split)
    outer  cores [split, out_cut)  left out: out_cut = split
    right  cores [out_cut, n)

Two groups are the bipartite form (x A) B, three the tripartite, four the quadripartite. The cheapest is
taken. Its cost is the number of multiply-adds in vectors of 16 columns, and of reads of the groups, once for
every 4 rows. It is the same on every instruction set, so that the grouping, and with it the rounding, does
not depend on the machine. If reads were not counted, 64 -> 4096 at rank 5 would form its 80 KiB half from
1024 rows on, and take 1.9 times as long at 2048 (AVX-512 Xeon VM, L1 of 48 KiB, Nov 2026). A GPU's kernels
take cuts of their own, `gpu_plan`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .checks import plain_number, shown

LANES = 16
ROWS_A_READ = 4
GROUPS = ("auto", 2, 3, 4)


def _vectors(n: int) -> int:
    return -(-n // LANES)


@dataclass(frozen=True)
class TTPlan:
    """How one tensor-train layer is contracted, and what that costs.

    Args:
        modes: k_1 .. k_n; the first `split` multiply to the input size, the rest to the output size.
        ranks: r_0 .. r_n, with r_0 = r_n = 1.
        split: number of cores on the input side.
        in_cut, out_cut: where the groups end (see the module's docstring).
    """

    modes: tuple[int, ...]
    ranks: tuple[int, ...]
    split: int
    in_cut: int
    out_cut: int

    @property
    def in_features(self) -> int:
        return math.prod(self.modes[: self.split])

    @property
    def out_features(self) -> int:
        return math.prod(self.modes[self.split :])

    @property
    def rank(self) -> int:
        """The rank at the split."""
        return self.ranks[self.split]

    @property
    def groups(self) -> int:
        return 2 + (self.in_cut > 0) + (self.out_cut > self.split)

    @property
    def parameters(self) -> int:
        return sum(a * k * b for a, k, b in zip(self.ranks, self.modes, self.ranks[1:]))

    def _products(self) -> list[tuple[int, int, int]]:
        """The matrix products (m, k, n) that contract the cores, grown from the rank-1 boundary."""
        products = []
        for first, last in ((0, self.in_cut), (self.in_cut, self.split), (self.split, self.out_cut)):
            rows = self.ranks[first]
            for i in range(first + 1, last):
                rows *= self.modes[i - 1]
                products.append((rows, self.ranks[i], self.modes[i] * self.ranks[i + 1]))
        columns = self.modes[-1]
        for i in range(len(self.modes) - 2, self.out_cut - 1, -1):
            products.append((self.ranks[i] * self.modes[i], self.ranks[i + 1], columns))
            columns *= self.modes[i]
        return products

    def _at_cuts(self) -> tuple[int, int, int, int]:
        """Sizes of the middle and the outer group, K and J of `csrc/core/tt.h`, and ranks at the cuts."""
        inner = math.prod(self.modes[self.in_cut : self.split])
        outer = math.prod(self.modes[self.split : self.out_cut])
        return inner, outer, self.ranks[self.in_cut], self.ranks[self.out_cut]

    def _row_products(self) -> list[tuple[int, int, int]]:
        """The matrix products (m, k, n) of one row of x, with n the vector's dimension."""
        inner, outer, in_rank, out_rank = self._at_cuts()
        products = [(1, in_rank * inner, self.rank), (outer, out_rank, self.out_features // outer)]
        if self.in_cut > 0:
            products.append((in_rank, self.in_features // inner, inner))
        if self.out_cut > self.split:
            products.append((1, self.rank, outer * out_rank))
        return products

    def macs(self, rows: int, queries: int = 1) -> int:
        """Multiply-adds of a call: `queries` contractions of the cores and `rows` rows in all."""
        cores = sum(m * k * n for m, k, n in self._products())
        return queries * cores + rows * sum(m * k * n for m, k, n in self._row_products())

    def flops(self, rows: int, queries: int = 1) -> int:
        """Twice `macs`, plus one addition a row and output feature (bias or residual)."""
        return 2 * self.macs(rows, queries) + rows * self.out_features

    def bytes(self, rows: int, queries: int = 1, itemsize: int = 4) -> int:
        """Memory a call must move: x once, y once, the fp32 cores once a query."""
        data = rows * (self.in_features + self.out_features) * itemsize
        return data + queries * 4 * self.parameters

    def _cost(self, rows: int) -> int:
        """Vectors multiplied and read by a call of one query."""
        cores = sum(m * k * _vectors(n) for m, k, n in self._products())
        multiplied = rows * sum(m * k * _vectors(n) for m, k, n in self._row_products())
        return cores + multiplied + -(-rows // ROWS_A_READ) * self._group_vectors()

    def _group_vectors(self) -> int:
        """Vectors of the contracted groups."""
        inner, outer, in_rank, out_rank = self._at_cuts()
        vectors = in_rank * inner * _vectors(self.rank) + out_rank * _vectors(self.out_features // outer)
        if self.in_cut > 0:
            vectors += _vectors(self.in_features // inner * in_rank)
        if self.out_cut > self.split:
            vectors += self.rank * _vectors(outer * out_rank)
        return vectors


@functools.lru_cache(maxsize=4096)
def _plan(modes: tuple[int, ...], ranks: tuple[int, ...], split: int, rows: int, groups: object) -> TTPlan:
    candidates = [
        plan
        for in_cut in range(split)
        for out_cut in range(split, len(modes))
        for plan in [TTPlan(modes, ranks, split, in_cut, out_cut)]
        if groups in ("auto", plan.groups)
    ]
    # ties go to fewer groups
    return min(candidates, key=lambda plan: (plan._cost(rows), plan.groups))


WIDE = 512  # features of a side from which a GPU gains by leaving modes uncontracted
VECTOR = 8


def gpu_plan(plan: TTPlan, groups: int | str = "auto") -> TTPlan:
    """The cuts of a GPU's kernels: a group beside the middle and the right on every wide side.

    A half of 4096 features at rank 5 is 80 KiB that every tile of rows would read again; left and middle
    are 7 KiB. The uncontracted modes K and Q are what threads move as vectors: 8 features (16 bytes of a
    16-bit x) at least where the modes allow it, of a multiple of 4 if one is. On the input side the
    smallest such K (partial sums are K * rank), on the output side the largest Q (the outer product is
    out / Q * rank). At 4096 -> 64 and back, rank 5: 42 k multiply-adds a row and 17 k for the cores, where
    the bipartite form takes 42 k and 222 k.

    A number of `groups` that was asked for is kept, on the sides where `plan` has them.
    """
    n, split = len(plan.modes), plan.split
    auto = groups == "auto"

    def best(cuts: range, end: int, sign: int) -> int:
        def worth(cut: int) -> tuple[int, ...]:
            size = math.prod(plan.modes[cut:end])
            return (1, size % 4 == 0, sign * cut) if size >= VECTOR else (0, size, 0)

        return max(cuts, key=worth)

    in_cut, out_cut = 0, split
    if split > 1 and (plan.in_features >= WIDE if auto else plan.in_cut > 0):
        in_cut = best(range(1, split), split, 1)
    if n - split > 1 and (plan.out_features >= WIDE if auto else plan.out_cut > split):
        out_cut = best(range(split + 1, n), n, -1)
    return TTPlan(plan.modes, plan.ranks, split, in_cut, out_cut)


def check_groups(groups: int | str, cores: int, split: int) -> int | str:
    """`groups` as "auto" or an int: a known number of groups, and cores enough on the two sides.

    Raises:
        ValueError: otherwise.
    """
    number = plain_number(groups)
    if isinstance(number, bool) or not isinstance(number, (int, str)) or number not in GROUPS:
        raise ValueError(f"groups must be 'auto', 2, 3 or 4, got {shown(groups)}")
    groups = number
    most = 2 + (split > 1) + (cores - split > 1)
    if groups != "auto" and int(groups) > most:
        sides = f"{split} on the input and {cores - split} on the output side"
        raise ValueError(f"groups={groups} does not fit {cores} cores, {sides}")
    return groups


def make_plan(
    modes: Sequence[int], ranks: Sequence[int], split: int, rows: int = 1, groups: int | str = "auto"
) -> TTPlan:
    """The cheapest grouping of checked shapes for `rows` rows of one query.

    Raises:
        ValueError: the number of groups asked for is unknown, or the layer has too few cores for it.
    """
    groups = check_groups(groups, len(modes), split)
    return _plan(tuple(modes), tuple(ranks), split, max(1, rows), groups)
