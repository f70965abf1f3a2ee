"""The masked move in Triton: one launch a tensor.

    p <- the move of `perturb.py` where |p| <= threshold, or where a mask says so; p elsewhere

The comparison is made with the value that is read, so no mask is in memory. Memory: one read and one
write an element, and one byte of an explicit mask.
"""

# mypy: allow-untyped-defs
# (annotations of device functions are Triton's, and only on arguments that need one)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .perturb import (
    BLOCK,
    RUN_TIME,
    _geometry,
    _on_device_of,
    _pieces,
    _term_arguments,
    moved,
    octets,
    offsets,
)
from .rounding import widen
from .state import is_stochastic, options, read, write


@triton.jit(do_not_specialize=RUN_TIME)
def masked_kernel(
    weights,
    out,
    masks,  # uint8, or None: the threshold decides
    table,  # as in perturb_kernel
    sizes,
    strides_in,
    strides_out,
    strides_mask,
    n: tl.int64,
    head: tl.int32,
    first: tl.uint64,
    stream: tl.uint32,
    count: tl.int32,
    seed0: tl.uint64,
    seed1: tl.uint64,
    seed2: tl.uint64,
    seed3: tl.uint64,
    decay: tl.float32,
    scale0: tl.float32,
    scale1: tl.float32,
    scale2: tl.float32,
    scale3: tl.float32,
    threshold: tl.float32,
    TERMS: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    STOCHASTIC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * BLOCK - head
    interior = (start >= 0) & (start + BLOCK <= n)
    octet = octets(first, BLOCK)
    p = read(weights + offsets(start, sizes, strides_in, BLOCK), interior, start, n, BLOCK)
    value = widen(p)
    if masks is None:
        chosen = tl.abs(value) <= tl.cast(threshold, tl.float32).to(value.dtype)
    else:
        chosen = read(masks + offsets(start, sizes, strides_mask, BLOCK), interior, start, n, BLOCK) != 0
    value = tl.where(decay == 0.0, 0.0, value)  # then it may be NaN
    new = moved(
        value, octet, stream.to(tl.uint32), count, table, decay, (seed0, seed1, seed2, seed3),
        (scale0, scale1, scale2, scale3), TERMS, GAUSSIAN, STOCHASTIC, BLOCK, out.dtype.element_ty,
    )  # fmt: skip
    target = out + offsets(start, sizes, strides_out, BLOCK)
    write(target, tl.where(chosen, new, p), interior, start, n, BLOCK)


def perturb_masked_(
    params: list[Tensor], out: list[Tensor], masks: list[Tensor], thresholds: list[float],
    seeds: list[int], scales: list[float], decay: float, streams: list[int], offsets: list[int],
    distribution: str, rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.masked`.

    Cost: one launch a tensor; allocates nothing for up to four seeds, else 16 bytes a seed.
    """
    with _on_device_of(params[0]):
        table, four_seeds, four_scales, terms = _term_arguments(seeds, scales, params[0].device)
        for i, (stream, first) in enumerate(zip(streams, offsets)):
            tensors = [params[i], out[i], *(m.view(torch.uint8) for m in masks[i : i + 1])]
            for offset, (p, q, *mask) in _pieces(first, *tensors):
                n, head = p.numel(), offset % 8
                geometry = _geometry(p, q, *mask)
                masked_kernel[(triton.cdiv(head + n, BLOCK),)](
                    p, q, mask[0] if mask else None, table, *geometry, *([()] if not mask else []),
                    n, head, offset // 8, stream, len(seeds), *four_seeds, decay, *four_scales,
                    0.0 if mask else thresholds[i], TERMS=terms, GAUSSIAN=distribution == "gaussian",
                    STOCHASTIC=is_stochastic(rounding, p.dtype), BLOCK=BLOCK, **options(geometry[0]),
                )  # fmt: skip
