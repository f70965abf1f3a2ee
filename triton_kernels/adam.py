"""The adaptive-moment update in Triton: one launch a tensor, parameters and state in one pass.

    w = decay * p + sum_k displacements[k] z_k,   g = sum_k grads[k] z_k + l2 w
    m, v (and for adamm the maximum of v) move on;  p <- round(w - step_size u(g, m, v))

The exact order of operations is in `zokern.ops.adam_`; the counter layout and the masks of the programs
at a tensor's ends are those of `perturb.py`. Memory: parameters and state are read and written once, z
is made once for both sums. One seed travels as scalars and no memory is allocated; more travel as one
small table, one host to device copy a call.
"""

# mypy: allow-untyped-defs
# (annotations of device functions are Triton's, and only on arguments that need one)

from __future__ import annotations

import struct
from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..call import codes
from ..call.rules import AdamRule
from .normal import LANE_Z, draw
from .perturb import BLOCK, RUN_TIME, _geometry, _on_device_of, _pieces, octets, offsets
from .rounding import widen
from .state import is_stochastic, options, read, rounded, scaled, write


@triton.jit
def fp32_from(bits):
    return bits.to(tl.uint32).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=RUN_TIME)
def adam_kernel(
    weights,
    out,
    exp_avgs,
    exp_avg_sqs,
    maxima,  # None but for adamm
    table,  # [count, 2] int64: seed, bits of grad below those of displacement; None where SINGLE
    sizes,  # (), or the dimensions of a strided tensor, with the strides of each memory
    strides_in,
    strides_out,
    strides_m,
    strides_v,
    strides_top,
    n: tl.int64,
    head: tl.int32,
    first: tl.uint64,
    stream: tl.uint32,
    count: tl.int32,
    seed0: tl.uint64,  # also the key of the rounding bits
    decay: tl.float32,
    grad0: tl.float32,
    displacement0: tl.float32,
    beta1: tl.float32,
    rest1: tl.float32,
    beta2: tl.float32,
    rest2: tl.float32,
    minus_step: tl.float32,
    root_scale: tl.float32,
    eps: tl.float32,
    l2: tl.float32,
    VARIANT: tl.constexpr,
    SINGLE: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK - head
    interior = (start >= 0) & (start + BLOCK <= n)
    octet = octets(first, BLOCK)
    stream = stream.to(tl.uint32)
    at_m = exp_avgs + offsets(start, sizes, strides_m, BLOCK)
    at_v = exp_avg_sqs + offsets(start, sizes, strides_v, BLOCK)
    w = widen(read(weights + offsets(start, sizes, strides_in, BLOCK), interior, start, n, BLOCK))
    m = read(at_m, interior, start, n, BLOCK)
    v = read(at_v, interior, start, n, BLOCK)
    w = w * tl.cast(decay, tl.float32)
    g = tl.zeros_like(m)
    if SINGLE:
        z = draw(octet, seed0.to(tl.uint64), stream, LANE_Z, GAUSSIAN, BLOCK)
        w = scaled(w, displacement0, z)
        g = scaled(g, grad0, z)
    else:
        for k in range(count):
            z = draw(octet, tl.load(table + 2 * k).to(tl.uint64), stream, LANE_Z, GAUSSIAN, BLOCK)
            both = tl.load(table + 2 * k + 1)
            w = scaled(w, fp32_from(both >> 32), z)
            g = scaled(g, fp32_from(both), z)
    g = tl.where(tl.cast(l2, tl.float32) != 0.0, scaled(g, l2, w.to(tl.float32)), g)
    m = scaled(tl.cast(rest1, tl.float32) * g, beta1, m)
    write(at_m, m, interior, start, n, BLOCK)
    if VARIANT == 1:
        old = tl.cast(beta2, tl.float32) * v
        new = tl.abs(g) + tl.cast(eps, tl.float32)
        v = tl.where(old > new, old, new)
        denominator = v
    else:
        v = scaled((tl.cast(rest2, tl.float32) * g) * g, beta2, v)
        denominator = v
        if VARIANT == 2:
            at_top = maxima + offsets(start, sizes, strides_top, BLOCK)
            top = read(at_top, interior, start, n, BLOCK)
            denominator = tl.where(top > v, top, v)
            write(at_top, denominator, interior, start, n, BLOCK)
        added = tl.zeros_like(v) + tl.cast(eps, tl.float32)
        denominator = scaled(added, root_scale, tl.sqrt_rn(denominator))
    write(at_v, v, interior, start, n, BLOCK)
    w = scaled(w, minus_step, tl.div_rn(m, denominator))
    p = rounded(w, octet, seed0, stream, STOCHASTIC, out.dtype.element_ty, BLOCK)
    write(out + offsets(start, sizes, strides_out, BLOCK), p, interior, start, n, BLOCK)


def _table(seeds: list[int], grads: list[float], displacements: list[float], device: torch.device) -> Tensor:
    rows = [struct.unpack("<qq", struct.pack("<Qff", *row)) for row in zip(seeds, grads, displacements)]
    return torch.tensor(rows, dtype=torch.int64).to(device)


def adam_(
    params: list[Tensor], out: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor], seeds: list[int], grads: list[float], displacements: list[float],
    decay: float, rule: AdamRule, variant: str, streams: list[int], offsets: list[int],
    distribution: str, rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.adam`.

    Cost: one launch a tensor; allocates nothing for one seed, else 16 bytes a seed.
    """
    constants = replace(rule, step_size=-rule.step_size).as_list()
    with _on_device_of(params[0]):
        single = len(seeds) == 1
        table = None if single else _table(seeds, grads, displacements, params[0].device)
        for i, (stream, first) in enumerate(zip(streams, offsets)):
            tensors = [t[i] for t in (params, out, exp_avgs, exp_avg_sqs, max_exp_avg_sqs) if t]
            for offset, views in _pieces(first, *tensors):
                n, head = views[0].numel(), offset % 8
                top = views[4] if variant == "adamm" else None
                geometry = [*_geometry(*views), ()][:6]
                adam_kernel[(triton.cdiv(head + n, BLOCK),)](
                    *views[:4], top, table, *geometry, n, head, offset // 8, stream, len(seeds),
                    seeds[0], decay, grads[0], displacements[0], *constants,
                    VARIANT=codes.VARIANT[variant], SINGLE=single, GAUSSIAN=distribution == "gaussian",
                    STOCHASTIC=is_stochastic(rounding, views[0].dtype), BLOCK=BLOCK, **options(geometry[0]),
                )  # fmt: skip
