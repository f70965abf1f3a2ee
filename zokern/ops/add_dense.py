"""`add_dense_`: a multiple of dense tensors added to a list, rounded once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..call.checks import as_list, check_choice, check_finite, check_fp32, check_no_overlap, check_seed
from ..call.codes import ROUNDINGS
from ..call.lists import Lists, Tensors, check_alike, check_lists
from ._library import ListOp

_ADD_DENSE = ListOp(
    "add_dense_",
    "Tensor[] dense, float scale, int seed, int[] streams, int[] offsets, str rounding",
    backend="reference",  # PyTorch's addition is what every backend would call
)

_SIXTEEN_BITS = (torch.bfloat16, torch.float16)


def add_dense_(
    params: Tensors, dense: Tensors, scale: float, *, rounding: str = "nearest", seed: int | None = None,
    streams: Sequence[int] | None = None, offsets: Sequence[int] | None = None, out: Tensors | None = None,
) -> None:  # fmt: skip
    r"""Adds a multiple of dense tensors, such as a momentum, to a list of tensors.

    .. math:: \theta \leftarrow \mathrm{round}(\theta + \mathrm{scale}\cdot d)

    The sum is fp32 (float64 for float64 tensors), by PyTorch's own addition, and is rounded to the dtype
    of what is written once. To round what `perturb_` and this op do together once, let `perturb_` write
    fp32 and give its result here as `params`, with 16-bit tensors as `out`.

    Args:
        params: tensors as in `perturb_`.
        dense: d, a float32 tensor of the same shape for each; float64 where params are.
        scale: factor of d.
        rounding: "nearest" or "stochastic" where 16-bit tensors are written; the bits are those of
            `perturb_` (lane 2 under `seed`).
        seed: 64-bit unsigned key of the stochastic bits.
        streams, offsets: as in `perturb_`, for the stochastic bits.
        out: where to write, of the params' dtypes, or bfloat16 or float16 where they are float32; `params`
            then stay untouched.

    Raises:
        TypeError, ValueError, RuntimeError: as `perturb_`, and for a wrong dtype or stochastic rounding
            without a seed; after an error all tensors are as they were.

    Cost: params and d read once, written once; a sum that is rounded to 16 bits is an fp32 tensor
        meanwhile: of one whole tensor where rounded to nearest, of 2**18 elements where stochastic.

    Source: the dense momentum of MeZO, `zokern.optim.MeZO(momentum=...)`.

    Example:
        >>> weights, momentum = torch.zeros(1000, dtype=torch.bfloat16), torch.randn(1000)
        >>> zokern.ops.add_dense_(weights, momentum, -1e-3, rounding="stochastic", seed=7)
    """
    factor = check_finite("scale", scale)
    check_choice("rounding", rounding, ROUNDINGS)
    if rounding == "stochastic" and seed is None:
        raise ValueError("rounding='stochastic' needs a seed to key its bits, got seed=None")
    key = 0 if seed is None else check_seed("seed", seed)
    lists = check_lists(params, out, streams, offsets, alike=("shape", "device"))
    dense_list = as_list(dense, Tensor, "dense")
    check_alike("dense", dense_list, lists.params, ("shape", "device"), (torch.float32, torch.float64))
    _check_dtypes(lists, dense_list)
    if any(tensor.dtype == torch.float32 for tensor in dense_list):
        check_fp32("scale", factor)
    check_no_overlap(**{"params" if out is None else "out": lists.out}, dense=dense_list)
    _ADD_DENSE(lists, dense_list, factor, key, lists.streams, lists.offsets, rounding)


def _check_dtypes(lists: Lists, dense: list[Tensor]) -> None:
    for i, (source, target, added) in enumerate(zip(lists.params, lists.out, dense)):
        if (source.dtype == torch.float64) != (added.dtype == torch.float64):
            raise TypeError(f"dense[{i}] has dtype {added.dtype}, params[{i}] has {source.dtype}")
        if target.dtype != source.dtype and not (
            source.dtype == torch.float32 and target.dtype in _SIXTEEN_BITS
        ):
            raise TypeError(f"out[{i}] has dtype {target.dtype}, params[{i}] has {source.dtype}")
