"""Tensor-train cores contracted to groups, in Triton: one launch for all groups, layers and queries.

    c [m, n] = a [m, k] b [k, n]        a step of a chain, from the rank-1 boundary inward
    c = fma(scale, z, a)                a perturbed core or bias, with noise

One program a (group, query) walks the steps of its chain, with a barrier of the program's threads between
them. Which steps there are, with their addresses and sizes, is a table in device memory: one kernel serves
any number of cores, and no shape compiles it anew. Sums run over k in order with fma, so groups have the
bits of the CPU's; perturbed cores have those of `perturb_`. Counter layout as in `perturb.py`.
"""

# mypy: allow-untyped-defs
# (annotations of device functions are Triton's, and only on arguments that need one)

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import triton
import triton.language as tl
from torch import Tensor

from ..call.tt_layers import TTLayer
from ..call.tt_noise import FIXED, TTNoise
from .perturb import INTERPRETED, add_term

STEP = tl.constexpr(11)  # numbers a step: a, b, c and their strides, m, k, n, kind, offset
MULTIPLY, COPY, PERTURB = 0, 1, 2


@triton.jit
def floats_at(table, query):
    """The pointer whose address and query stride are the table's next two numbers."""
    return tl.load(table).to(tl.pointer_type(tl.float32)) + query * tl.load(table + 1)


@triton.jit
def multiply(a, b, c, m, k, n, BM: tl.constexpr, BN: tl.constexpr):
    for m0 in range(0, m, BM):
        row = m0 + tl.arange(0, BM)
        for n0 in range(0, n, BN):
            column = n0 + tl.arange(0, BN)
            total = tl.zeros((BM, BN), tl.float32)
            for d in range(0, k):
                left = tl.load(a + row * k + d, row < m, 0.0)
                right = tl.load(b + d * n + column, column < n, 0.0)
                total = tl.fma(
                    tl.broadcast_to(left[:, None], (BM, BN)), tl.broadcast_to(right[None, :], (BM, BN)), total
                )
            inside = (row < m)[:, None] & (column < n)[None, :]
            tl.store(c + row[:, None] * n + column[None, :], total, inside)


@triton.jit
def move(a, c, m, offset, seed, scale, stream, perturbed, GAUSSIAN: tl.constexpr, BLOCK: tl.constexpr):
    """Copies m values, moved along the stream's elements from `offset` on where `perturbed`."""
    head = offset % 8
    for start in range(0, head + m, BLOCK):
        at = start - head + tl.arange(0, BLOCK)
        inside = (at >= 0) & (at < m)
        value = tl.load(a + at, inside, 0.0)
        if perturbed:
            octet = ((offset + start) // 8 + tl.arange(0, BLOCK // 8)).to(tl.uint64)
            value = add_term(value, octet, seed, scale, stream, GAUSSIAN, BLOCK)
        tl.store(c + at, value, inside)


@triton.jit(do_not_specialize=("steps", "terms", "stream"))
def groups_kernel(
    table,  # int64: (first step, last step) a task, then steps, (seed, bits of the scale) a query, layers
    steps: tl.int64,  # where the steps begin
    terms: tl.int64,  # where the seeds begin
    stream: tl.uint32,
    NOISE: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    task, query = tl.program_id(0), tl.program_id(1).to(tl.int64)
    for i in range(tl.load(table + 2 * task), tl.load(table + 2 * task + 1)):
        step = table + steps + i * STEP
        a, c = floats_at(step, query), floats_at(step + 4, query)
        m, k, n, kind = tl.load(step + 6), tl.load(step + 7), tl.load(step + 8), tl.load(step + 9)
        if kind == 0:
            multiply(a, floats_at(step + 2, query), c, m, k, n, BM, BN)
        else:
            if NOISE:
                seed = tl.load(table + terms + 2 * query)
                scale = tl.load(table + terms + 2 * query + 1).to(tl.uint32).to(tl.float32, bitcast=True)
            else:
                seed, scale = kind, 0.0
            move(a, c, m, tl.load(step + 10), seed, scale, stream, NOISE and kind == 2, GAUSSIAN, BLOCK)
        tl.debug_barrier()


# A plain choice, no sweep has been run: 8 elements a thread. Large blocks under the interpreter, which
# takes milliseconds an iteration and little an element.
BLOCKS = {"BM": 64, "BN": 256, "BLOCK": 4096} if INTERPRETED else {"BM": 16, "BN": 64, "BLOCK": 1024}
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


@dataclass(frozen=True)
class Group:
    """The address of a contracted group (any, while sizes are measured), and the floats from one query's to
    the next one's."""

    data: int
    stride: int


ABSENT = Group(0, 0)


@dataclass
class Planner:
    """Collects the steps of a call. `base`: the workspace; 0 to measure how many floats a query needs."""

    base: int
    floats: int  # of a query
    noise: TTNoise | None
    steps: list[tuple[int, ...]] = field(default_factory=list)
    tasks: list[tuple[int, int]] = field(default_factory=list)
    used: int = 0

    def _take(self, floats: int, target: Group | None) -> Group:
        if target is not None:
            return target
        group = Group(self.base + 4 * self.used, self.floats)
        self.used += floats
        return group

    def _core(self, core: Tensor, batched: bool, offset: int, target: Group | None = None) -> Group:
        source = Group(core.data_ptr(), core.stride(0) if batched else 0)
        if offset == FIXED and target is None:
            return source
        n = core[0].numel() if batched else core.numel()
        to = self._take(n, target)
        kind = COPY if offset == FIXED else PERTURB
        place = max(offset, 0)
        self.steps.append((source.data, source.stride, 0, 0, to.data, to.stride, n, 0, 0, kind, place))
        return to

    def _multiply(self, a: Group, b: Group, m: int, k: int, n: int, target: Group | None) -> Group:
        c = self._take(m * n, target)
        addresses = (a.data, a.stride, b.data, b.stride, c.data, c.stride)
        self.steps.append((*addresses, m, k, n, MULTIPLY, 0))
        return c

    def _end(self, first: int) -> None:
        if len(self.steps) > first:
            self.tasks.append((first, len(self.steps)))

    def from_left(
        self, layer: TTLayer, offsets: list[int], first: int, last: int, target: Group | None = None
    ) -> Group:
        """Cores [first, last) as [ranks[first] * modes, ranks[last]]."""
        begin, p = len(self.steps), layer.plan
        done = self._core(
            layer.cores[first], layer.batched, offsets[first], target if last == first + 1 else None
        )
        rows = p.ranks[first] * p.modes[first]
        for i in range(first + 1, last):
            core = self._core(layer.cores[i], layer.batched, offsets[i])
            n, to = p.modes[i] * p.ranks[i + 1], target if i + 1 == last else None
            done = self._multiply(done, core, rows, p.ranks[i], n, to)
            rows *= p.modes[i]
        self._end(begin)
        return done

    def from_right(
        self, layer: TTLayer, offsets: list[int], first: int, target: Group | None = None
    ) -> Group:
        """Cores [first, n) as [ranks[first], modes]."""
        begin, p = len(self.steps), layer.plan
        last = len(p.modes) - 1
        done = self._core(layer.cores[last], layer.batched, offsets[last], target if last == first else None)
        columns = p.modes[last]
        for i in range(last - 1, first - 1, -1):
            core = self._core(layer.cores[i], layer.batched, offsets[i])
            m, to = p.ranks[i] * p.modes[i], target if i == first else None
            done = self._multiply(core, done, m, p.ranks[i + 1], columns, to)
            columns *= p.modes[i]
        self._end(begin)
        return done

    def bias(self, layer: TTLayer, offsets: list[int]) -> Group:
        if layer.bias is None:
            return ABSENT
        begin = len(self.steps)
        done = self._core(layer.bias, layer.bias_batched, offsets[len(layer.cores)])
        self._end(begin)
        return done

    def groups(self, layer: TTLayer, offsets: list[int]) -> list[Group]:
        """left, middle, outer, right, bias as the plan's cuts say."""
        p = layer.plan
        return [
            self.from_left(layer, offsets, 0, p.in_cut) if p.in_cut else ABSENT,
            self.from_left(layer, offsets, p.in_cut, p.split),
            self.from_left(layer, offsets, p.split, p.out_cut) if p.out_cut > p.split else ABSENT,
            self.from_right(layer, offsets, p.out_cut),
            self.bias(layer, offsets),
        ]

    def terms(self) -> list[tuple[int, ...]]:
        """Each query's seed, as a signed number, and the bits of its scale."""
        if self.noise is None:
            return []
        pairs = zip(self.noise.seeds, self.noise.scales)
        return [struct.unpack("<qq", struct.pack("<QfI", seed, scale, 0)) for seed, scale in pairs]


def launch_groups(table: Tensor, planner: Planner, queries: int) -> None:
    """Contracts; `table` begins with the planner's tasks, steps and terms."""
    if not planner.tasks:
        return
    steps, noise = 2 * len(planner.tasks), planner.noise
    gaussian = noise is None or noise.distribution == "gaussian"
    groups_kernel[(len(planner.tasks), queries)](
        table, steps, steps + STEP.value * len(planner.steps), 0 if noise is None else noise.stream,
        NOISE=noise is not None, GAUSSIAN=gaussian, **BLOCKS, **OPTIONS,
    )  # fmt: skip
