"""What a step of each method costs, counted: passes, normals, bytes moved, forwards, bytes held."""

from __future__ import annotations

import pytest
import torch

import zokern
from benchmarks.passes import ROWS, Row, Traffic, count

# a weight: passes of zokern's ops, of torch's, normals, bytes moved; forwards; bytes held a weight.
# A pass reads and writes an fp32 weight, 8 bytes; m and v take 8 more each, a momentum only read 4.
COSTS: dict[str, tuple[float, float, float, float, int, float]] = {
    "MeZO, two-sided": (3, 0, 3, 24, 2, 0),
    "MeZO, `lazy`": (2, 0, 3, 16, 2, 0),
    "MeZO, one-sided": (2, 0, 2, 16, 2, 0),
    # one of four equal layers at a time
    "MeZO, weights never written (`exact`)": (3, 0, 3, 24, 2, 4 / 4),
    # the momentum's pass, and weights += momentum: 8 + 12
    "MeZO, dense momentum": (4, 1, 4, 3 * 8 + 8 + 12, 2, 4),
    # a pass from query to query holds two seeds, the first that of the last update's five
    "MeZO, 5 queries, `lazy`": (10, 0, 10 + 4 + 5, 80, 10, 0),
    "AdaZeta, 5 queries": (11, 0, 10 + 4 + 5, 88, 10, 0),
    "ZOAdam": (3, 0, 3, 2 * 8 + 24, 2, 8),
    "ZOAdamW": (3, 0, 3, 2 * 8 + 24, 2, 8),
    "ZOAdaMax": (3, 0, 3, 2 * 8 + 24, 2, 8),
    "ZOAdaMM": (3, 0, 3, 2 * 8 + 32, 2, 12),
    "ZOAdaMU": (3, 0, 6, 2 * 12 + 16, 2, 4),
    "MeZO-SVRG, full step": (3, 0, 3, 24, 2, 0),
    # to the snapshot and back the one move since; the update holds the full batch's direction, too
    "MeZO-SVRG, other steps": (5, 0, 1 + 1 + 2 + 1 + 2, 40, 4, 0),
    "MeZO-SVRG, other steps, `lazy`": (4, 0, 1 + 1 + 2 + 1 + 1, 32, 4, 0),
    "MeZO-SVRG, other steps, anchor copied": (5, 0, 4 + 2, 40, 4, 4 + 4 / 4),
    "ZO-SVRG, other steps, batch of 2": (9, 0, 1 + 1 + 9 + 1 + 10 + 1 + 9 + 1 + 10, 72, 8, 0),
    "SparseMeZO (`exact`)": (3, 0, 3, 24, 2, 4 / 4),
    # |w|, then |w| <= threshold: 8 + 5; the masks are a byte a weight in each pass
    "SparseMeZO, in place": (3, 2, 3, 24 + 8 + 5 + 3, 2, 1),
    "SparseMeZO, 1 block of 4": (3 / 4, 0, 3 / 4, 24 / 4, 2, 0),
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_cost_of_a_step(row: Row) -> None:
    cost, held = count(row)
    found = (cost.passes, cost.other, cost.normals, cost.bytes, cost.forwards, held)
    assert found == COSTS[row.name]


def test_the_count_sees_what_an_op_reads_and_writes() -> None:
    a, b = torch.ones(2, 100).unbind()
    with Traffic() as traffic:
        zokern.perturb_(a, [1, 2], [0.1, 0.2], out=b)  # reads a, writes b
    assert (traffic.passes, traffic.normals, traffic.bytes) == (100, 200, 800)
    with Traffic() as traffic:
        a.add_(b).view(10, 10)
        b.copy_(a)
        b.abs()
        with traffic.forward():
            a.add_(b)  # the model's own
    assert (traffic.other, traffic.bytes, traffic.forwards) == (300, 1200 + 800 + 800, 1)
