"""`normal` and `normal_`: the noise itself, as a new tensor and into a list of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import backends
from ..call.checks import (
    check_bounded,
    check_choice,
    check_device,
    check_kind,
    check_seed,
    check_shape,
    check_tensor,
)
from ..call.codes import DISTRIBUTIONS
from ..call.dispatch import to_signed, to_unsigned
from ..call.lists import Tensors
from ._library import define
from .perturb import perturb_


def normal(
    shape: int | Sequence[int], seed: int, *, stream: int = 0, lane: int = 0, offset: int = 0,
    device: torch.device | str | None = None, dtype: torch.dtype = torch.float32,
    distribution: str = "gaussian",
) -> Tensor:  # fmt: skip
    """The z that `perturb_` adds, as a tensor.

    Element i (row-major) is z(seed, stream, lane, offset + i) of the zk-v1 stream, computed in fp32
    and rounded to `dtype`. `perturb_` on zeros with scale 1 gives the same bits.

    Args:
        shape: size, or sizes.
        seed: int in [0, 2**64).
        stream: ordinal of the tensor, int in [0, 2**32).
        lane: 0 for z, 1 for the second Gaussian; int in [0, 2**32).
        offset: index of the first element, int in [0, 2**63).
        device: where to make it; default PyTorch's default device.
        dtype: float32, bfloat16, float16 or float64.
        distribution: "gaussian" or "rademacher".

    Returns:
        A new tensor.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range; it is named.

    Cost: one write of every element.

    Example:
        >>> zokern.normal(3, seed=0)
        tensor([0.2383, 1.5080, 0.0220])
    """
    value = check_seed("seed", seed)
    (stream,) = check_bounded("stream", [stream], 1, 32)
    (lane,) = check_bounded("lane", [lane], 1, 32)
    (offset,) = check_bounded("offset", [offset], 1, 63)
    check_choice("distribution", distribution, DISTRIBUTIONS)
    sizes, place = check_shape("shape", shape), check_device("device", device)
    check_kind("dtype", dtype, torch.dtype, "a dtype")
    out = torch.empty(sizes, device=place, dtype=dtype)
    check_tensor("dtype", out)
    if out.numel():
        torch.ops.zokern.normal_(out, to_signed(value), stream, lane, offset, distribution)
    return out


def normal_(
    params: Tensors, seeds: int | Sequence[int],
    scales: float | Sequence[float] | Sequence[Sequence[float]] = 1.0, *,
    streams: Sequence[int] | None = None, offsets: Sequence[int] | None = None,
    distribution: str = "gaussian", rounding: str = "nearest",
) -> None:  # fmt: skip
    r"""Fills a list of tensors with seeded noise, in one write of their memory.

    .. math:: \theta \leftarrow \sum_k \mathrm{scales}_k\, z(\mathrm{seeds}_k)

    It is `perturb_` with decay 0: what the tensors hold, NaN or memory never written, is not read. With one
    seed and scale 1 the values are those of `normal`.

    Args:
        params: tensors of any shape and stride, as in `perturb_`. A single tensor stands for a list of one.
        seeds: 64-bit unsigned seeds, one a term. Empty: zeros.
        scales: one factor a seed, or a row of them for each tensor; default 1, for one seed.
        streams, offsets, distribution, rounding: as in `perturb_`.

    Raises:
        TypeError, ValueError, RuntimeError: as `perturb_`.

    Cost: one write of every element, `len(seeds)` normals an element; allocates no tensor.

    Example:
        >>> direction = [torch.empty(1000), torch.empty(10, 10, dtype=torch.bfloat16)]
        >>> zokern.normal_(direction, seeds=7)
    """
    perturb_(
        params, seeds, scales, decay=0.0, streams=streams, offsets=offsets, distribution=distribution,
        rounding=rounding,
    )  # fmt: skip


def _normal(out: Tensor, seed: int, stream: int, lane: int, offset: int, distribution: str) -> None:
    _, kernel = backends.select("normal_", out.device.type)
    kernel(out, to_unsigned(seed), stream, lane, offset, distribution)


define(
    "normal_(Tensor(a!) out, int seed, int stream, int lane, int offset, str distribution) -> ()",
    _normal,
    lambda *_: None,
)
