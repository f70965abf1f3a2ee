"""`perturb_`: the one primitive of zeroth-order training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .. import backends
from ..call import prepared
from ..call.checks import as_list, check_choice, check_factors, check_fp32, check_seeds
from ..call.codes import DISTRIBUTIONS, ROUNDINGS
from ..call.dispatch import to_signed, to_unsigned
from ..call.lists import check_lists, tell_autograd, without_empty
from ._library import define


def perturb_(
    params: Tensor | Iterable[Tensor],
    seeds: int | Sequence[int],
    scales: float | Sequence[float],
    *,
    decay: float = 1.0,
    streams: Sequence[int] | None = None,
    offsets: Sequence[int] | None = None,
    distribution: str = "gaussian",
    rounding: str = "nearest",
    out: Tensor | Iterable[Tensor] | None = None,
) -> None:
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
    seed_list = check_seeds("seeds", as_list(seeds, int))
    scale_list = check_factors("scales", scales, len(seed_list))
    factor = check_fp32("decay", decay)
    check_choice("distribution", distribution, DISTRIBUTIONS)
    if check_choice("rounding", rounding, ROUNDINGS) == "stochastic" and not seed_list:
        raise ValueError("rounding='stochastic' needs a seed to key its bits, got seeds=[]")
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
    if lists.is_empty() or (not seed_list and factor == 1.0 and lists.in_place):
        return
    signed = [to_signed(s) for s in seed_list]
    arguments = (signed, scale_list, factor, lists.streams, lists.offsets, distribution, rounding)
    if lists.in_place:
        torch.ops.zokern.perturb_(lists.params, *arguments)
    else:
        torch.ops.zokern.perturb_out(lists.params, lists.out, *arguments)
    lists.written()
    prepared.keep(key, lists.params, lists.streams, lists.offsets)


def _perturb_out(
    params: list[Tensor], out: list[Tensor], seeds: list[int], scales: list[float], decay: float,
    streams: list[int], offsets: list[int], distribution: str, rounding: str,
) -> None:  # fmt: skip
    _, kernel = backends.select("perturb_", params[0].device.type)
    *tensors, streams, offsets = without_empty(params, out, streams, offsets)
    kernel(*tensors, [to_unsigned(s) for s in seeds], scales, decay, streams, offsets, distribution, rounding)


def _perturb(params: list[Tensor], *arguments: object) -> None:
    _perturb_out(params, params, *arguments)  # type: ignore[arg-type]


_ARGUMENTS = (
    "int[] seeds, float[] scales, float decay, int[] streams, int[] offsets, str distribution, str rounding"
)
define(f"perturb_(Tensor(a!)[] params, {_ARGUMENTS}) -> ()", _perturb, lambda *_: None)
define(
    f"perturb_out(Tensor[] params, Tensor(a!)[] out, {_ARGUMENTS}) -> ()",
    _perturb_out,
    lambda *_: None,
)
