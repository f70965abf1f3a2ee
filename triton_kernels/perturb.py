"""The move in Triton: one launch a tensor, every seed in one pass over its memory.

    p <- round_to_dtype( fma(scale_k, z_k, ... fma(scale_0, z_0, decay * float(p))) ),  decay = 0 reads nothing

Counter layout: element i of a tensor (row-major, whatever its strides) is element e = offset + i
of its stream and belongs to octet e >> 3; `philox.py` and `normal.py` say what an octet draws. A
program owns BLOCK elements that begin on an octet, so where offset is no multiple of 8 the first
program begins `head` elements before the tensor. Only programs that reach over an end use masks: a
mask on all of them would cost the 16-byte accesses wherever the size is no multiple of 16.

Memory: one read and one write an element (2 x 4 bytes for fp32, 2 x 2 for bf16 and fp16). Seeds,
scales, decay and stream are run-time scalars: another learning rate or seed compiles nothing. Up to
four seeds travel as scalars and no memory is allocated; more travel as one small table, one host to
device copy a call, which a CUDA graph cannot capture.

No autotuning: it would run an in-place kernel many times over the caller's parameters.
One launch a tensor, not one for all: pointers keep their alignment, and there is no table to build, to
copy or to keep alive. The price is the host time of every launch. Before a pass the host has read a loss,
so the device is idle and waits while the launches are made: small tensors finish sooner than the next launch.
"""

# mypy: allow-untyped-defs
# (annotations of device functions are Triton's, and only on arguments that need one)

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from .normal import LANE_Z, draw, rounding_bits
from .rounding import nearest, stochastic, widen, zeros


@triton.jit
def octets(first, BLOCK: tl.constexpr):
    """64-bit octet indices of this program, uint64 [BLOCK // 8]."""
    mine = first.to(tl.uint64) + tl.program_id(0).to(tl.uint64) * (BLOCK // 8)
    return mine + tl.arange(0, BLOCK // 8).to(tl.uint64)


@triton.jit
def offsets(start, sizes, strides, BLOCK: tl.constexpr):
    """Memory offsets of elements start .. start + BLOCK; `sizes` is empty for dense tensors."""
    if len(sizes) == 0:
        offset = start + tl.arange(0, BLOCK).to(tl.int64)
    else:
        # 64-bit division would cost several times as much and spill registers, so `_pieces` keeps n below
        # 2**31. Offsets of elements outside the tensor are wrong, and masked later.
        rest = start.to(tl.uint32) + tl.arange(0, BLOCK).to(tl.uint32)
        offset = tl.full((BLOCK,), 0, tl.int64)
        for i in tl.static_range(len(sizes)):
            size = tl.cast(sizes[len(sizes) - 1 - i], rest.dtype)
            offset += (rest % size).to(tl.int64) * strides[len(sizes) - 1 - i]
            rest = rest // size
    return offset


@triton.jit
def inside(start, n, BLOCK: tl.constexpr):
    """Which elements of start .. start + BLOCK lie in 0 .. n; compared as 32-bit numbers."""
    element = tl.arange(0, BLOCK)
    low = tl.maximum(-start, 0).to(tl.int32)
    high = tl.minimum(n - start, BLOCK).to(tl.int32)
    return (element >= low) & (element < high)


@triton.jit
def add_term(value, octet, seed, scale, stream, GAUSSIAN: tl.constexpr, BLOCK: tl.constexpr):
    """value + scale * z, rounded once; fp64 for float64 tensors, where the product is exact."""
    z = draw(octet, seed.to(tl.uint64), stream, LANE_Z, GAUSSIAN, BLOCK)
    return tl.fma(z.to(value.dtype), tl.cast(scale, tl.float32).to(value.dtype), value)


@triton.jit
def pick(k, values):
    """values[k] of four scalars, k known at run time."""
    low = tl.where(k == 0, values[0], values[1])
    high = tl.where(k == 2, values[2], values[3])
    return tl.where(k < 2, low, high)


@triton.jit
def moved(
    value, octet, stream, count, table, decay, seeds, scales,
    TERMS: tl.constexpr, GAUSSIAN: tl.constexpr, STOCHASTIC: tl.constexpr, BLOCK: tl.constexpr,
    dtype: tl.constexpr,
):  # fmt: skip
    """The new values, in `dtype`, of the octets' elements, whose widened values are `value`."""
    value = value * tl.cast(decay, tl.float32)
    if TERMS == 1:
        value = add_term(value, octet, seeds[0], scales[0], stream, GAUSSIAN, BLOCK)
    elif TERMS == 4:
        for k in range(count):
            seed, scale = pick(k, seeds), pick(k, scales)
            value = add_term(value, octet, seed, scale, stream, GAUSSIAN, BLOCK)
    else:
        for k in range(count):
            seed = tl.load(table + 2 * k)
            scale = tl.load(table + 2 * k + 1).to(tl.uint32).to(tl.float32, bitcast=True)
            value = add_term(value, octet, seed, scale, stream, GAUSSIAN, BLOCK)
    if STOCHASTIC:
        random16 = rounding_bits(octet, seeds[0].to(tl.uint64), stream, BLOCK)
        result = stochastic(value, random16, dtype)
    else:
        result = nearest(value, dtype)
    return result


RUN_TIME = ("n", "first", "stream", "lane", "count", "seed", "seed0", "seed1", "seed2", "seed3")


@triton.jit(do_not_specialize=RUN_TIME)
def perturb_kernel(
    weights,  # None: zeros, and nothing is read
    out,
    table,  # [count, 2] int64: seed, bits of the scale; None where TERMS > 0
    sizes,  # (), or the dimensions of a strided tensor, with the strides of weights and out
    strides_in,
    strides_out,
    n: tl.int64,
    head: tl.int32,  # elements of the first octet that precede the tensor: offset % 8
    first: tl.uint64,  # first octet: offset // 8
    stream: tl.uint32,
    count: tl.int32,
    seed0: tl.uint64,  # also the key of the rounding bits, whatever TERMS
    seed1: tl.uint64,
    seed2: tl.uint64,
    seed3: tl.uint64,
    decay: tl.float32,
    scale0: tl.float32,
    scale1: tl.float32,
    scale2: tl.float32,
    scale3: tl.float32,
    TERMS: tl.constexpr,  # 1: seed0 alone; 4: up to four scalars; 0: the table
    GAUSSIAN: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK - head
    octet = octets(first, BLOCK)
    target = out + offsets(start, sizes, strides_out, BLOCK)
    stream = stream.to(tl.uint32)
    seeds = (seed0, seed1, seed2, seed3)
    scales = (scale0, scale1, scale2, scale3)
    interior = (start >= 0) & (start + BLOCK <= n)
    if weights is None:
        value = zeros(out.dtype.element_ty, BLOCK)
    else:
        source = weights + offsets(start, sizes, strides_in, BLOCK)
        if interior:
            value = widen(tl.load(source))
        else:
            value = widen(tl.load(source, inside(start, n, BLOCK)))
    p = moved(
        value, octet, stream, count, table, decay, seeds, scales,
        TERMS, GAUSSIAN, STOCHASTIC, BLOCK, out.dtype.element_ty,
    )  # fmt: skip
    if interior:
        tl.store(target, p)
    else:
        tl.store(target, p, inside(start, n, BLOCK))


@triton.jit(do_not_specialize=RUN_TIME)
def normal_kernel(
    out,
    sizes,
    strides,
    n: tl.int64,
    head: tl.int32,
    first: tl.uint64,
    stream: tl.uint32,
    lane: tl.uint32,
    seed: tl.uint64,
    GAUSSIAN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK - head
    octet = octets(first, BLOCK)
    target = out + offsets(start, sizes, strides, BLOCK)
    z = draw(octet, seed.to(tl.uint64), stream.to(tl.uint32), lane.to(tl.uint32), GAUSSIAN, BLOCK)
    z = nearest(z, out.dtype.element_ty)
    if (start >= 0) & (start + BLOCK <= n):
        tl.store(target, z)
    else:
        tl.store(target, z, inside(start, n, BLOCK))


INTERPRETED = not isinstance(perturb_kernel, triton.JITFunction)
# On a device 16 elements, two octets, a thread: a plain choice, no sweep has been run. The
# interpreter takes 13 ms a program and 0.2 us an element more (Triton 3.9, a Xeon core).
BLOCK = 16384 if INTERPRETED else 2048
# enable_fp_fusion=False: contraction only where `tl.fma` says so
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
MAX_SCALARS = 4
STRIDED_LIMIT = 1 << 31  # elements of a strided tensor in one launch


def _geometry(*tensors: Tensor) -> tuple[tuple[int, ...], ...]:
    """Sizes, then each tensor's strides, neighbouring dimensions merged where all of them allow it.

    All empty for dense tensors. Sizes and strides become kernel arguments that Triton specialises
    on 1 and on multiples of 16: strided tensors compile once per such pattern.
    """
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in tensors]
    for dim, size in enumerate(tensors[0].shape):
        steps = [t.stride(dim) for t in tensors]
        if size == 1:
            continue
        if sizes and all(mine[-1] == size * step for mine, step in zip(strides, steps)):
            sizes[-1] *= size
            for mine, step in zip(strides, steps):
                mine[-1] = step
        else:
            sizes.append(size)
            for mine, step in zip(strides, steps):
                mine.append(step)
    if not sizes or (len(sizes) == 1 and all(mine == [1] for mine in strides)):
        return ((),) * (len(tensors) + 1)
    return (tuple(sizes), *map(tuple, strides))


def _pieces(offset: int, *tensors: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """(offset, views) of each launch: everything, or runs of rows of a huge strided tensor."""
    n = tensors[0].numel()
    if n < STRIDED_LIMIT or all(t.is_contiguous() for t in tensors):
        yield offset, tensors
        return
    count, row = tensors[0].shape[0], n // tensors[0].shape[0]
    rows = max(1, (STRIDED_LIMIT - 1) // row)
    for start in range(0, count, rows):
        views = tuple(t[start : start + rows] if rows > 1 else t[start] for t in tensors)
        yield from _pieces(offset + start * row, *views)


def _on_device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def _term_table(seeds: list[int], scales: list[float], device: torch.device) -> Tensor:
    """[count, 2] int64: each seed, and the bits of its scale."""
    rows = [struct.unpack("<qq", struct.pack("<QfI", k, s, 0)) for k, s in zip(seeds, scales)]
    return torch.tensor(rows, dtype=torch.int64).to(device)


def _term_arguments(
    seeds: list[int], scales: list[float], device: torch.device
) -> tuple[Tensor | None, list[int], list[float], int]:
    """The kernel's (table, four seeds, four scales, TERMS)."""
    table, terms = None, 1 if len(seeds) == 1 else MAX_SCALARS
    if len(seeds) > MAX_SCALARS:
        table, terms = _term_table(seeds, scales, device), 0
    padding = MAX_SCALARS - len(seeds)
    return table, [*seeds, *[0] * padding][:MAX_SCALARS], [*scales, *[0.0] * padding][:MAX_SCALARS], terms


def perturb_(
    params: list[Tensor], out: list[Tensor], seeds: list[int], scales: list[float], decay: float,
    streams: list[int], offsets: list[int], distribution: str, rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.perturb`.

    Cost: one launch a tensor; allocates nothing for up to four seeds, else 16 bytes a seed.
    """
    with _on_device_of(params[0]):
        table, four_seeds, four_scales, terms = _term_arguments(seeds, scales, params[0].device)
        for whole, target, stream, first in zip(params, out, streams, offsets):
            sixteen_bits = target.dtype in (torch.bfloat16, torch.float16)
            for offset, (p, q) in _pieces(first, whole, target):
                n, head = p.numel(), offset % 8
                unread = decay == 0.0
                if (
                    unread and torch.float64 in (p.dtype, q.dtype) and p.dtype != q.dtype
                ):  # it says how sums are made
                    p, unread = p.new_zeros(()).expand(p.shape), False
                perturb_kernel[(triton.cdiv(head + n, BLOCK),)](
                    None if unread else p, q, table, *_geometry(p, q), n, head, offset // 8, stream,
                    len(seeds), *four_seeds, decay, *four_scales,
                    TERMS=terms, GAUSSIAN=distribution == "gaussian",
                    STOCHASTIC=rounding == "stochastic" and sixteen_bits, BLOCK=BLOCK, **OPTIONS,
                )  # fmt: skip


def normal_(out: Tensor, seed: int, stream: int, lane: int, offset: int, distribution: str) -> None:
    """Backend entry: fills `out` with the stream's values, rounded to its dtype; one launch."""
    with _on_device_of(out):
        for first, (q,) in _pieces(offset, out):
            n, head = q.numel(), first % 8
            normal_kernel[(triton.cdiv(head + n, BLOCK),)](
                q, *_geometry(q), n, head, first // 8, stream, lane, seed,
                GAUSSIAN=distribution == "gaussian", BLOCK=BLOCK, **OPTIONS,
            )  # fmt: skip
