"""Tensor-train layers in Triton: cores to groups in one launch, rows through the layers in another.

    t[b, k] = sum_i left[i, b] x[i, k]      s[c] = sum_bk t[b, k] middle[b, k, c]
    u[j, d] = sum_c s[c] outer[c, j, d]     y[j, k] = bias + sum_d u[j, d] right[d, k]
    adapter: y = x + scale * up(activation(down(x)))

A program owns 1, 2 or 4 rows of one query. x is read in blocks of K, once for every 8 ranks, and by an
adapter again for the residual, mostly from L2; y is written once. Between the stages s, u and the hidden
row (a KB or two a row at hidden 4096) lie in a workspace from PyTorch's allocator, with a barrier of the
program's threads; L2 holds it. Products are fp32 fma, never tf32.

The groups are those of `gpu_plan`: at hidden 4096 and rank 5 they are 11 KiB that stay in L1, where the
halves of the bipartite form are 160 KiB that every program would read from L2.

Addresses and sizes are a table in device memory, one host to device copy a call, which a CUDA graph cannot
capture; no shape, rank or number of cores compiles a kernel anew. Sums of s end in Triton's reductions:
results agree with other backends to fp32 rounding, and do not depend on the rows beside.
"""

# mypy: allow-untyped-defs
# (annotations of device functions are Triton's, and only on arguments that need one)

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..call.tt_layers import TTLayer
from ..call.tt_noise import FIXED, TTNoise
from .perturb import INTERPRETED, _on_device_of
from .rounding import nearest, widen
from .tt_activation import activate
from .tt_groups import Group, Planner, floats_at, launch_groups

LAYER = tl.constexpr(18)  # numbers a layer: five groups and their strides, I, K, p, r, J, Q, q, out


@triton.jit
def size(layer, i: tl.constexpr):
    """A size of the table, in 32 bits: in 64, a block's offsets would take twice the registers."""
    return tl.load(layer + i).to(tl.int32)


@triton.jit
def across(width, lane, BLOCK: tl.constexpr):
    """How a block covers rows of `width` columns: (rows at once, row and column of each lane). A narrow
    matrix fills the block with several rows; of a wide one it takes a part, and lanes keep their column."""
    part = tl.minimum(width, BLOCK)
    return BLOCK // part, lane // part, lane % part


@triton.jit
def reduce(
    rows, valid, layer, query, to,
    BR: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """s of the rows that the pointers `rows` [BR] point at, stored at `to` [BR]."""
    left, middle = floats_at(layer, query), floats_at(layer + 2, query)
    modes, width = size(layer, 10), size(layer, 11)
    ranks, r = size(layer, 12), size(layer, 13)
    grouped = tl.load(layer) != 0  # without a left group I = p = 1, t = x: its one coefficient is 1
    stored, one = tl.where(grouped, ranks, 0), tl.where(grouped, -1, 0)
    at_once, di, dk = across(width, tl.arange(0, BLOCK), BLOCK)
    for c0 in range(0, r, BC):
        s = tl.zeros((BR, BC), tl.float32)
        for k0 in range(0, width, BLOCK):
            k = k0 + dk
            column = (k < width) & (di < at_once)
            for b0 in range(0, ranks, BP):
                b = b0 + tl.arange(0, BP)
                t = tl.zeros((BP, BR, BLOCK), tl.float32)  # its sums over the lanes of one k are t[b, k]
                for i0 in range(0, modes, at_once):
                    i = i0 + di
                    inside = column & (i < modes)
                    mask = valid[:, None] & inside[None, :]
                    x = widen(tl.load(rows[:, None] + (i * width + k)[None, :], mask, 0.0))
                    taken = (b < stored)[:, None] & inside[None, :]
                    weight = tl.load(left + i[None, :] * ranks + b[:, None], taken, 0.0)
                    weight = tl.where((b == one)[:, None], 1.0, weight)
                    t = tl.fma(
                        tl.broadcast_to(weight[:, None, :], (BP, BR, BLOCK)),
                        tl.broadcast_to(x[None, :, :], (BP, BR, BLOCK)), t,
                    )  # fmt: skip
                part = (b < ranks)[:, None] & column[None, :]
                for c in range(c0, tl.minimum(c0 + BC, r)):
                    m = tl.load(middle + (b[:, None] * width + k[None, :]) * r + c, part, 0.0)
                    total = tl.sum(tl.sum(t * m[:, None, :], 0), 1)  # [BR]
                    s += tl.where((c0 + tl.arange(0, BC) == c)[None, :], total[:, None], 0.0)
        c = c0 + tl.arange(0, BC)
        tl.store(to[:, None] + c[None, :], s, valid[:, None] & (c < r)[None, :])
    tl.debug_barrier()


@triton.jit
def outer_rows(s, u, valid, layer, query, BR: tl.constexpr, BLOCK: tl.constexpr):
    """u of the rows' s, where there is an outer group."""
    if tl.load(layer + 4) != 0:
        outer, r = floats_at(layer + 4, query), size(layer, 13)
        n = size(layer, 14) * size(layer, 16)
        for e0 in range(0, n, BLOCK):
            e = e0 + tl.arange(0, BLOCK)
            total = tl.zeros((BR, BLOCK), tl.float32)
            for c in range(0, r):
                row = tl.load(s + c, valid, 0.0)
                weight = tl.load(outer + c * n + e, e < n, 0.0)
                total = tl.fma(
                    tl.broadcast_to(row[:, None], (BR, BLOCK)),
                    tl.broadcast_to(weight[None, :], (BR, BLOCK)),
                    total,
                )
            tl.store(u[:, None] + e[None, :], total, valid[:, None] & (e < n)[None, :])
        tl.debug_barrier()


@triton.jit
def spread(
    s, u, valid, layer, query, x, y, scale,
    RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, BR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """bias + u right: through the activation, or scaled onto x, to the rows `y`."""
    outer_rows(s, u, valid, layer, query, BR, BLOCK)
    right, bias = floats_at(layer + 6, query), floats_at(layer + 8, query)
    biased = tl.where(tl.load(layer + 8) != 0, size(layer, 17), 0)
    modes, width, ranks = size(layer, 14), size(layer, 15), size(layer, 16)
    source = tl.where(tl.load(layer + 4) != 0, u, s)
    at_once, dj, dk = across(width, tl.arange(0, BLOCK), BLOCK)
    for k0 in range(0, width, BLOCK):
        k = k0 + dk
        for j0 in range(0, modes, at_once):
            j = j0 + dj
            column, inside = j * width + k, (k < width) & (dj < at_once) & (j < modes)
            start = tl.load(bias + column, inside & (column < biased), 0.0)
            total = tl.broadcast_to(start[None, :], (BR, BLOCK))
            mask = valid[:, None] & inside[None, :]
            for d in range(0, ranks):
                row = tl.load(source[:, None] + (j * ranks + d)[None, :], mask, 0.0)
                weight = tl.load(right + d * width + k, inside, 0.0)
                total = tl.fma(row, tl.broadcast_to(weight[None, :], (BR, BLOCK)), total)
            if RESIDUAL:
                old = widen(tl.load(x[:, None] + column[None, :], mask, 0.0))
                total = tl.fma(tl.broadcast_to(tl.cast(scale, tl.float32), (BR, BLOCK)), total, old)
            else:
                total = activate(total, ACTIVATION)
            tl.store(y[:, None] + column[None, :], nearest(total, y.dtype.element_ty), mask)


RUN_TIME = ("layers", "rows", "tiles", "x_stride", "y_stride", "floats", "u_at", "hidden_at")


@triton.jit(do_not_specialize=RUN_TIME)
def rows_kernel(
    x,
    y,
    workspace,  # fp32: of every row s, u and the hidden row
    table,  # of groups_kernel
    layers: tl.int64,  # where its layers begin
    rows: tl.int64,  # of a query
    tiles: tl.int64,  # of a query
    x_stride: tl.int64,
    y_stride: tl.int64,
    floats: tl.int64,  # of a row of the workspace, and where u and hidden begin in it
    u_at: tl.int64,
    hidden_at: tl.int64,
    scale: tl.float32,
    ADAPTER: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BR: tl.constexpr,
    BP0: tl.constexpr,  # ranks at once, of each layer
    BP1: tl.constexpr,
    BC: tl.constexpr,  # of the ranks at the splits
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    query = program // tiles
    first = program % tiles * BR
    valid = first + tl.arange(0, BR) < rows
    row = query * rows + first + tl.arange(0, BR)
    s = workspace + row * floats
    u, hidden = s + u_at, s + hidden_at
    layer = table + layers
    reduce(x + row * x_stride, valid, layer, query, s, BR, BP0, BC, BLOCK)
    if ADAPTER:
        spread(s, u, valid, layer, query, x, hidden, scale, False, ACTIVATION, BR, BLOCK)
        tl.debug_barrier()
        layer += LAYER
        reduce(hidden, valid, layer, query, s, BR, BP1, BC, BLOCK)
    x_rows, y_rows = x + row * x_stride, y + row * y_stride
    spread(s, u, valid, layer, query, x_rows, y_rows, scale, ADAPTER, "identity", BR, BLOCK)


# With 4 warps the variants of four rows spill, and some of one row (Triton 3.9).
OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}
# Features of a block: one a thread and row. A plain choice, no sweep has been run; larger under the
# interpreter, which takes milliseconds an iteration and little an element.
BLOCK = 1024 if INTERPRETED else 256
FILL = 256  # programs a call should have before they take more rows: about two for each of 132 processors


def _power_of_two(n: int, most: int) -> int:
    return min(1 << (n - 1).bit_length(), most)


def _numbers(layer: TTLayer, groups: Sequence[Group]) -> list[int]:
    """A layer's part of the table."""
    p = layer.plan
    inner, outer = math.prod(p.modes[: p.in_cut]), math.prod(p.modes[p.split : p.out_cut])
    sizes = (inner, p.in_features // inner, p.ranks[p.in_cut], p.rank, outer, p.out_features // outer)
    places = [number for group in groups for number in (group.data, group.stride)]
    return [*places, *sizes, p.ranks[p.out_cut], p.out_features]


def _table(planner: Planner, layers: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """What the kernels read: tasks, steps, terms, layers."""
    rows: list[Sequence[int]] = [*planner.tasks, *planner.steps, *planner.terms(), *layers]
    return torch.tensor([number for row in rows for number in row], dtype=torch.int64).to(device)


def _offsets(layers: Sequence[TTLayer], noise: TTNoise | None) -> list[list[int]]:
    counts = [len(layer.tensors) for layer in layers]
    positions = [FIXED] * sum(counts) if noise is None else list(noise.positions)
    return [positions[: counts[0]], positions[counts[0] :]][: len(layers)]


def _run(
    x: Tensor, out: Tensor, given: Sequence[TTLayer], activation: str, scale: float,
    queries: int | None, noise: TTNoise | None,
) -> None:  # fmt: skip
    layers = [layer.planned_for_gpu().made_dense() for layer in given]  # kept alive for the call
    offsets, count = _offsets(layers, noise), queries or 1
    plans = [layer.plan for layer in layers]

    def planned(base: int, floats: int) -> tuple[Planner, list[list[Group]]]:
        planner = Planner(base, floats, noise)
        return planner, [planner.groups(layer, own) for layer, own in zip(layers, offsets)]

    floats = planned(0, 0)[0].used
    device, rows = x.device, x.shape[0] // count
    s = max(p.rank for p in plans)
    u = max(math.prod(p.modes[p.split : p.out_cut]) * p.ranks[p.out_cut] for p in plans)
    hidden = plans[0].out_features if len(layers) == 2 else 0
    with _on_device_of(x):
        contracted = torch.empty(max(1, count * floats), dtype=torch.float32, device=device)
        workspace = torch.empty(x.shape[0] * (s + u + hidden), dtype=torch.float32, device=device)
        planner, groups = planned(contracted.data_ptr(), floats)
        table = _table(planner, [_numbers(layer, g) for layer, g in zip(layers, groups)], device)
        launch_groups(table, planner, count)
        at_once = 4 if x.shape[0] >= 4 * FILL else 2 if x.shape[0] >= 2 * FILL else 1
        if INTERPRETED:
            at_once = 16
        tiles = -(-rows // at_once)
        ranks = [_power_of_two(p.ranks[p.in_cut], 8) for p in plans]
        rows_kernel[(count * tiles,)](
            x, out, workspace, table, table.numel() - LAYER.value * len(layers), rows, tiles, x.stride(0),
            out.stride(0), s + u + hidden, s, s + u, scale,
            ADAPTER=len(layers) == 2, ACTIVATION=activation, BR=at_once, BP0=ranks[0], BP1=ranks[-1],
            BC=_power_of_two(s, 16), BLOCK=BLOCK, **OPTIONS,
        )  # fmt: skip


def tt_halves(layer: TTLayer, left: Tensor, right: Tensor) -> None:
    """Backend entry: fills A and B; one launch."""
    dense, queries = layer.made_dense(), layer.queries or 1
    offsets = _offsets([dense], None)[0]

    def planned(base: int, floats: int) -> Planner:
        planner = Planner(base, floats, None)
        a, b = (Group(half.data_ptr(), half.numel() // queries) for half in (left, right))
        planner.from_left(dense, offsets, 0, layer.plan.split, a)
        planner.from_right(dense, offsets, layer.plan.split, b)
        return planner

    floats = planned(0, 0).used
    with _on_device_of(left):
        contracted = torch.empty(max(1, queries * floats), dtype=torch.float32, device=left.device)
        planner = planned(contracted.data_ptr(), floats)
        launch_groups(_table(planner, [], left.device), planner, queries)


def tt_linear(x: Tensor, out: Tensor, layer: TTLayer, queries: int | None, noise: TTNoise | None) -> None:
    """Backend entry; arguments as checked and normalised by `zokern.ops.tt`."""
    _run(x, out, (layer,), "identity", 1.0, queries, noise)


def tt_adapter(
    x: Tensor, out: Tensor, down: TTLayer, up: TTLayer, activation: str, scale: float,
    queries: int | None, noise: TTNoise | None,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.tt`."""
    _run(x, out, (down, up), activation, scale, queries, noise)
