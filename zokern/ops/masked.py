"""`perturb_masked_`: `perturb_` for some of the elements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..call.checks import as_list, as_number, as_sequence, check_fp32, check_move, plain_number
from ..call.lists import Tensors, check_alike, check_lists
from ._library import ListOp

_MASKED = ListOp(
    "perturb_masked_",
    "Tensor[] masks, float[] thresholds, int[] seeds, float[] scales, float decay, int[] streams, "
    "int[] offsets, str distribution, str rounding",
)


def perturb_masked_(
    params: Tensors, seeds: int | Sequence[int], scales: float | Sequence[float], *,
    thresholds: float | Sequence[float] | None = None, masks: Tensors | None = None, decay: float = 1.0,
    streams: Sequence[int] | None = None, offsets: Sequence[int] | None = None,
    distribution: str = "gaussian", rounding: str = "nearest", out: Tensors | None = None,
) -> None:  # fmt: skip
    r"""Adds seeded noise to the small elements of each tensor, or to those that a mask chooses.

    .. math::
        \theta_j \leftarrow \begin{cases}
            \mathrm{decay}\cdot\theta_j + \sum_k \mathrm{scales}_k\, z_j(\mathrm{seeds}_k) & j \in M \\
            \theta_j & \text{otherwise, bit for bit}
        \end{cases}
        \qquad M = \{j : |\theta_j| \le \mathrm{threshold}\}

    The comparison is made inside the kernel with the value that is read: no mask is stored. With
    `out`, params are the base and a step's probe, flip and update, all from the base, share its mask.
    Chosen elements get the bits that `perturb_` would give them.

    Args:
        params: tensors as in `perturb_`.
        seeds, scales, decay, streams, offsets, distribution, rounding: as in `perturb_`.
        thresholds: one number from 0 on for each tensor, or one for all, rounded to fp32; infinity
            chooses every element. NaN elements are never chosen.
        masks: in place of thresholds, one boolean tensor of the same shape for each.
        out: where to write, frozen elements included; `params` then stay untouched.

    Raises:
        TypeError, ValueError, RuntimeError: as `perturb_`, and for a mask that is not boolean, a negative
            threshold, or not exactly one of both; after an error all tensors are as they were.

    Cost: that of `perturb_`, and the reading of masks, one byte an element; allocates no tensor.

    Source: Sparse-MeZO (Liu et al. 2024, arXiv:2402.15751), Algorithm 1.

    Example:
        >>> base = torch.randn(1000)
        >>> probe = torch.empty_like(base)
        >>> zokern.perturb_masked_([base], 7, 1e-3, thresholds=0.3, out=[probe])
    """
    seed_list, scale_list, factor = check_move(seeds, scales, decay, distribution, rounding)
    if (thresholds is None) == (masks is None):
        given = "neither" if masks is None else "both"
        raise ValueError(f"exactly one of thresholds and masks must be given, got {given}")
    lists = check_lists(params, out, streams, offsets)
    mask_list: list[Tensor] = []
    limits: list[float] = []
    if masks is not None:
        mask_list = as_list(masks, Tensor, "masks")
        check_alike("masks", mask_list, lists.params, ("shape", "device"), (torch.bool,))
    else:
        limits = _limits(thresholds, len(lists.params))
    if seed_list or factor != 1.0 or not lists.in_place:
        _MASKED(
            lists, mask_list, limits, seed_list, scale_list, factor, lists.streams, lists.offsets,
            distribution, rounding,
        )  # fmt: skip


def _limits(thresholds: float | Sequence[float] | None, count: int) -> list[float]:
    one = plain_number(thresholds)
    values = [one] * count if isinstance(one, (int, float)) else as_sequence("thresholds", thresholds)
    if len(values) != count:
        raise ValueError(f"thresholds has {len(values)} entries for {count} tensors in params")
    limits = [as_number(f"thresholds[{i}]", value) for i, value in enumerate(values)]
    for i, limit in enumerate(limits):
        if not limit >= 0.0:
            raise ValueError(f"thresholds[{i}] must be 0 or above, got {limit}")
    return [v if v == math.inf else check_fp32(f"thresholds[{i}]", v) for i, v in enumerate(limits)]
