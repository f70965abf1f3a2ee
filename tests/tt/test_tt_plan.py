"""The planner: known counts, the cheapest grouping, one to be told."""

import itertools

import pytest
import torch

import zokern
from tests.tt.conftest import make_cores
from zokern.call.tt_plan import TTPlan, make_plan

DOWN, UP = [16, 16, 16, 4, 4, 4], [4, 4, 4, 16, 16, 16]


def plan(modes, rank, groups="auto", rows=1):
    ranks = [1, *[rank] * (len(modes) - 1), 1]
    return make_plan(modes, ranks, len(modes) // 2, rows, groups)


@pytest.mark.parametrize("rank", [5, 8, 16])
def test_contraction_counts_of_4096_to_64(rank):
    """Counted by hand: A is (16*16 + 16*16*16) r^2, B (4*4 + 4*4*4) r^2."""
    bipartite, tripartite = plan(DOWN, rank, 2), plan(DOWN, rank, 3)
    r2 = rank * rank
    assert bipartite.macs(0) == (256 + 4096 + 16 + 64) * r2
    assert tripartite.macs(0) == (256 + 16 + 64) * r2
    assert bipartite.macs(1) - bipartite.macs(0) == rank * (4096 + 64)
    assert tripartite.macs(1) - tripartite.macs(0) == rank * (4096 + 64) + 16 * r2


def test_the_wide_side_is_cut_beside_the_split():
    """Many rows: the wide side only. One row: cutting the narrow side saves contraction too."""
    for rank, rows in itertools.product([5, 8, 16], [1, 128, 2048]):
        down, up = plan(DOWN, rank, rows=rows), plan(UP, rank, rows=rows)
        assert down.in_cut == 2 and up.out_cut == 4
        assert down.groups == up.groups == (4 if rows == 1 else 3)


@pytest.mark.parametrize("modes", [DOWN, UP, [8, 8, 12, 12, 8, 8], [61, 8], [2, 3, 5, 7, 2]])
def test_auto_is_no_dearer_than_any_group(modes):
    for rank, rows in itertools.product([1, 5, 16], [1, 7, 2048]):
        chosen = plan(modes, rank, rows=rows)
        for groups in (2, 3, 4):
            try:
                other = plan(modes, rank, groups, rows)
            except ValueError:
                continue
            assert other.groups == groups
            assert chosen._cost(rows) <= other._cost(rows)


def test_counts_what_a_call_does():
    """Against the shapes of the einsums that the four groups are."""
    modes, ranks, split = (3, 5, 2, 4, 6, 2), (1, 2, 3, 4, 5, 6, 1), 3
    p = TTPlan(modes, ranks, split, 1, 5)
    left, middle = 0, 3 * 5 * 4 * 2 * 2  # one core; [r1 k2, r2] x [r2, k3 r3] = (2*5) * 3 * (2*4)
    middle = (2 * 5) * 3 * (2 * 4)
    outer = (4 * 4) * 5 * (6 * 6)
    row = 3 * 2 * 10 + 2 * 10 * 4 + 4 * (4 * 6 * 6) + 4 * 6 * 6 * 2
    assert p.groups == 4
    assert p.macs(0) == left + middle + outer
    assert p.macs(7) == p.macs(0) + 7 * row
    assert p.macs(14, queries=2) == 2 * p.macs(7)
    assert p.flops(7) == 2 * p.macs(7) + 7 * 48
    assert p.bytes(7) == 7 * (30 + 48) * 4 + 4 * p.parameters
    assert p.bytes(7, itemsize=2) == 7 * (30 + 48) * 2 + 4 * p.parameters


def test_tt_cost_reads_cores():
    cost = zokern.tt_cost(make_cores(DOWN, 5), 3, rows=2048)
    assert (cost.groups, cost.in_features, cost.out_features, cost.rank) == (3, 4096, 64, 5)
    assert cost.parameters == sum(c.numel() for c in make_cores(DOWN, 5))
    with pytest.raises(ValueError, match="split"):
        zokern.tt_cost(make_cores(DOWN, 5), 0)


def test_groupings_agree_and_the_one_asked_for_runs(tt_backend):
    cores = [c.to(tt_backend.device) for c in make_cores([6, 4, 2, 3, 5], [3, 4, 2, 5])]
    x = torch.randn(5, 24, device=tt_backend.device)
    results = [zokern.tt_linear(x, cores, 2, groups=g) for g in (2, 3, 4)]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-5, atol=1e-5)
    if tt_backend.name == "cpu":  # other orders of summation, hence other roundings
        assert not torch.equal(results[0], results[1]) and not torch.equal(results[1], results[2])
