"""ZO-AdaMU's probe and update in Triton: one launch a tensor.

    m_t = beta1 sqrt(alpha) n1 + (1-beta1) (m + sqrt(1-alpha) n2)       n1, n2: lanes 0 and 1 of one seed
    probe:   p <- round(decay p + scale m_t)                            m is read
    update:  p <- round(decay p + displacement m_t + scale m_t / sqrt(v + sigma)),   m <- momentum_scale m_t

The exact order of operations is in `zokern.ops.adamu`; the counter layout and the masks of the programs
at a tensor's ends are those of `perturb.py`. Memory: parameters read and written, m read (and written by
the update), nothing allocated.
"""

# mypy: allow-untyped-defs
# (annotations of device functions are Triton's, and only on arguments that need one)

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..call.rules import AdaMURule
from .normal import LANE_Z, gaussian
from .perturb import BLOCK, RUN_TIME, _geometry, _on_device_of, _pieces, octets, offsets
from .rounding import widen
from .state import is_stochastic, options, read, rounded, scaled, write

LANE_SECOND = tl.constexpr(1)


@triton.jit(do_not_specialize=RUN_TIME)
def adamu_kernel(
    weights,
    out,
    exp_avgs,
    sizes,  # (), or the dimensions of a strided tensor, with the strides of each memory
    strides_in,
    strides_out,
    strides_m,
    n: tl.int64,
    head: tl.int32,
    first: tl.uint64,
    stream: tl.uint32,
    seed: tl.uint64,
    scale: tl.float32,
    displacement: tl.float32,
    decay: tl.float32,
    root_alpha: tl.float32,
    root_rest: tl.float32,
    beta1: tl.float32,
    rest1: tl.float32,
    beta2: tl.float32,
    rest2: tl.float32,
    sigma: tl.float32,
    momentum_scale: tl.float32,
    UPDATE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK - head
    interior = (start >= 0) & (start + BLOCK <= n)
    octet = octets(first, BLOCK)
    stream = stream.to(tl.uint32)
    key = seed.to(tl.uint64)
    at_m = exp_avgs + offsets(start, sizes, strides_m, BLOCK)
    w = widen(read(weights + offsets(start, sizes, strides_in, BLOCK), interior, start, n, BLOCK))
    m = read(at_m, interior, start, n, BLOCK)
    w = w * tl.cast(decay, tl.float32)
    gradient = tl.cast(root_alpha, tl.float32) * gaussian(octet, key, stream, LANE_Z, BLOCK)
    past = scaled(m, root_rest, gaussian(octet, key, stream, LANE_SECOND, BLOCK))
    now = scaled(tl.cast(rest1, tl.float32) * past, beta1, gradient)
    if UPDATE:
        write(at_m, tl.cast(momentum_scale, tl.float32) * now, interior, start, n, BLOCK)
        w = scaled(w, displacement, now)
        square = (tl.cast(rest2, tl.float32) * past) * past
        v = tl.fma(tl.cast(beta2, tl.float32) * gradient, gradient, square)
        w = scaled(w, scale, tl.div_rn(now, tl.sqrt_rn(v + tl.cast(sigma, tl.float32))))
    else:
        w = scaled(w, scale, now)
    p = rounded(w, octet, key, stream, STOCHASTIC, out.dtype.element_ty, BLOCK)
    write(out + offsets(start, sizes, strides_out, BLOCK), p, interior, start, n, BLOCK)


def _launch(
    params: list[Tensor], out: list[Tensor], exp_avgs: list[Tensor], seed: int, numbers: list[float],
    streams: list[int], offsets: list[int], rounding: str, update: bool,
) -> None:  # fmt: skip
    with _on_device_of(params[0]):
        for i, (stream, first) in enumerate(zip(streams, offsets)):
            for offset, views in _pieces(first, params[i], out[i], exp_avgs[i]):
                n, head, geometry = views[0].numel(), offset % 8, _geometry(*views)
                adamu_kernel[(triton.cdiv(head + n, BLOCK),)](
                    *views, *geometry, n, head, offset // 8, stream, seed, *numbers, UPDATE=update,
                    STOCHASTIC=is_stochastic(rounding, views[0].dtype), BLOCK=BLOCK, **options(geometry[0]),
                )  # fmt: skip


def adamu_probe_(
    params: list[Tensor], out: list[Tensor], exp_avgs: list[Tensor], seed: int, scale: float,
    decay: float, rule: AdaMURule, streams: list[int], offsets: list[int], rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.adamu`."""
    numbers = [scale, 0.0, decay, *rule.as_list()]
    _launch(params, out, exp_avgs, seed, numbers, streams, offsets, rounding, False)


def adamu_update_(
    params: list[Tensor], out: list[Tensor], exp_avgs: list[Tensor], seed: int, scale: float,
    displacement: float, decay: float, rule: AdaMURule, streams: list[int], offsets: list[int],
    rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.adamu`."""
    numbers = [scale, displacement, decay, *rule.as_list()]
    _launch(params, out, exp_avgs, seed, numbers, streams, offsets, rounding, True)
