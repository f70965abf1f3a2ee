"""`perturb_`: the one primitive of zeroth-order training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import backends
from ..call import prepared
from ..call.checks import as_list, check_move
from ..call.lists import Tensors, check_lists, tell_autograd
from ._library import ListOp

_PERTURB = ListOp(
    "perturb_",
    "int[] seeds, float[] scales, float decay, int[] streams, int[] offsets, str distribution, str rounding",
)


def perturb_(
    params: Tensors, seeds: int | Sequence[int], scales: float | Sequence[float], *, decay: float = 1.0,
    streams: Sequence[int] | None = None, offsets: Sequence[int] | None = None,
    distribution: str = "gaussian", rounding: str = "nearest", out: Tensors | None = None,
) -> None:  # fmt: skip
    r"""Adds seeded noise to a list of tensors, in one pass over their memory.

    .. math:: \theta \leftarrow \mathrm{decay}\cdot\theta + \sum_k \mathrm{scales}_k\, z(\mathrm{seeds}_k)

    The noise z is a pure function of (seed, stream, element index): it is regenerated in registers
    and never stored. Perturbing, restoring, updating and replaying are this line with other numbers.
    The result does not depend on how the list is split, on threads, block sizes, instruction set or
    backend: all of them give the same bits (zk-v1).

    Args:
        params: tensors of any shape and stride, of dtype float32, bfloat16, float16 or float64, on
            one device. A single tensor stands for a list of one. Empty tensors are allowed.
        seeds: 64-bit unsigned seeds, one a term. Empty: only `decay` applies.
        scales: one factor a seed, rounded to fp32.
        decay: factor of the present value, rounded to fp32.
        streams: ordinal of each tensor, int in [0, 2**32); default 0, 1, 2, ... A sub-list or a
            permuted list that names the same streams draws the same noise.
        offsets: index of each tensor's first element in the whole (unsharded) tensor, int in
            [0, 2**63); default 0. Element i draws the noise of index offset + i, i row-major over
            the tensor's shape, whatever its strides.
        distribution: "gaussian", or "rademacher" (+1 or -1).
        rounding: "nearest" or "stochastic" for bfloat16 and float16: up with probability equal to the
            discarded part, from counter-based bits (lane 2 under `seeds[0]`), so that it replays.
            No effect on float32 and float64.
        out: where to write; same shapes, dtypes and device as `params`, which then stay untouched.

    Arithmetic is fp32 fused multiply-add, terms folded in order, rounded to the dtype once. For
    float64 tensors `decay * p` and the sums are float64 (z and scales are fp32 numbers, their product is
    exact).

    Raises:
        TypeError: a tensor is not floating point, a seed is not an integer.
        ValueError: lengths differ, a seed, stream or offset is out of range, a scale is not finite,
            tensors overlap in memory, shapes, dtypes or devices do not match.
        RuntimeError: grad mode is on and a written tensor requires grad.
        Every check precedes the first write: after an error all tensors are as they were.

    Cost: one read and one write of every element, `len(seeds)` normals an element; allocates no
        tensor. On CUDA one launch for hundreds of tensors.

    Source: seed replay as in MeZO (Malladi et al. 2023, arXiv:2305.17333, Algorithm 1).

    Example:
        >>> weights = [torch.zeros(1000), torch.zeros(10, 10, dtype=torch.bfloat16)]
        >>> zokern.perturb_(weights, seeds=7, scales=1e-3)     # probe
        >>> zokern.perturb_(weights, seeds=7, scales=-1e-3)    # and back
    """
    seed_list, scale_list, factor = check_move(seeds, scales, decay, distribution, rounding)
    sources, key = as_list(params, Tensor), None
    if out is None and not torch.compiler.is_compiling() and prepared.may_be_kept(sources):
        device = sources[0].device.type
        kernel = backends.select("perturb_", device)[1] if device in backends.PREFERENCE else None
        key = prepared.key_of(kernel, sources, streams, offsets)
        if (ready := prepared.find(key, sources)) is not None:
            if seed_list or factor != 1.0:
                ready.run(seed_list, scale_list, factor, 0, distribution, rounding)
                tell_autograd(sources)
            return
    lists = check_lists(sources, out, streams, offsets)
    if not seed_list and factor == 1.0 and lists.in_place:
        return
    _PERTURB(lists, seed_list, scale_list, factor, lists.streams, lists.offsets, distribution, rounding)
    prepared.keep(key, lists.params, lists.streams, lists.offsets)
