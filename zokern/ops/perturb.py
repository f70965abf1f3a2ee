"""`perturb_`: the one primitive of zeroth-order training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..call import prepared
from ..call.checks import as_list, check_move
from ..call.lists import Tensors, check_lists, tell_autograd
from ..call.moves import Moves, materialised, one_a_tensor
from ._library import ListOp

_PERTURB = ListOp(
    "perturb_",
    "int[] seeds, float[] scales, float decay, int[] streams, int[] offsets, str distribution, str rounding",
)

_ALIKE = ("shape", "device")  # out and params


def perturb_(
    params: Tensors, seeds: int | Sequence[int], scales: float | Sequence[float] | Sequence[Sequence[float]],
    *, decay: float | Sequence[float] = 1.0,
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
        scales: one factor a seed, rounded to fp32; or a list with such a row for each tensor.
        decay: factor of the present value, rounded to fp32; or a list with one for each tensor. With 0
            nothing is read: the present value, which may be NaN or memory never written, does not matter.
        streams: ordinal of each tensor, int in [0, 2**32); default 0, 1, 2, ... A sub-list or a
            permuted list that names the same streams draws the same noise.
        offsets: index of each tensor's first element in the whole (unsharded) tensor, int in
            [0, 2**63); default 0. Element i draws the noise of index offset + i, i row-major over
            the tensor's shape, whatever its strides.
        distribution: "gaussian", or "rademacher" (+1 or -1).
        rounding: "nearest" or "stochastic" for bfloat16 and float16: up with probability equal to the
            discarded part, from counter-based bits (lane 2 under `seeds[0]`), so that it replays.
            No effect on float32 and float64.
        out: where to write; same shapes and device as `params`, which then stay untouched. Its dtypes may
            be others of the four: the sum is computed as for the dtype of `params` and rounded once to that
            of `out`, as `rounding` says. So bfloat16 weights are made from fp32 master weights.

    Numbers said for each tensor change no bit beside those that are said: streams are counted through the
    whole list. Arithmetic is fp32 fused multiply-add, terms folded in order, rounded to the dtype once. For
    float64 tensors `decay * p` and the sums are float64 (z and scales are fp32 numbers, their product is
    exact).

    Raises:
        TypeError: a tensor is not floating point, a seed is not an integer.
        ValueError: lengths differ, a seed, stream or offset is out of range, a scale is not finite,
            tensors overlap in memory, shapes or devices do not match.
        RuntimeError: grad mode is on and a written tensor requires grad.
        Every check precedes the first write: after an error all tensors are as they were.

    Cost: one read (none with decay 0) and one write of every element, `len(seeds)` normals an element;
        allocates no tensor. On CUDA one launch for hundreds of tensors. Numbers said for each tensor: one
        call of the kernel for every different row of them.

    Source: seed replay as in MeZO (Malladi et al. 2023, arXiv:2305.17333, Algorithm 1).

    Example:
        >>> weights = [torch.zeros(1000), torch.zeros(10, 10, dtype=torch.bfloat16)]
        >>> zokern.perturb_(weights, seeds=7, scales=1e-3)     # probe
        >>> zokern.perturb_(weights, seeds=7, scales=-1e-3)    # and back
    """
    factors, decays = materialised(scales), materialised(decay)
    if one_a_tensor(factors, decays):
        _perturb_each(params, seeds, factors, decays, streams, offsets, distribution, rounding, out)
        return
    seed_list, scale_list, factor = check_move(seeds, factors, decays, distribution, rounding)
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
    lists = check_lists(sources, out, streams, offsets, alike=_ALIKE)
    if not seed_list and factor == 1.0 and lists.in_place:
        return
    _PERTURB(lists, seed_list, scale_list, factor, lists.streams, lists.offsets, distribution, rounding)
    prepared.keep(key, lists.params, lists.streams, lists.offsets)


def _perturb_each(
    params: Tensors, seeds: Any, scales: Any, decay: Any, streams: Any, offsets: Any, distribution: str,
    rounding: str, out: Tensors | None,
) -> None:  # fmt: skip
    """`perturb_` where scales or decay say a number for each tensor. All is checked before the first write."""
    sources = as_list(params, Tensor)
    seed_list = as_list(seeds, int)
    seed_list, _, _ = check_move(seed_list, [0.0] * len(seed_list), 1.0, distribution, rounding)
    moves = Moves.of(scales, decay, len(seed_list), len(sources))
    lists = check_lists(sources, out, streams, offsets, alike=_ALIKE)
    for some, scale_list, factor in moves.split(lists):
        if seed_list or factor != 1.0 or not some.in_place:
            _PERTURB(some, seed_list, scale_list, factor, some.streams, some.offsets, distribution, rounding)
