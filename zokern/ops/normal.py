"""`normal`: the noise itself, for tests, inspection and other libraries."""

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
from ._library import define


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


def _normal(out: Tensor, seed: int, stream: int, lane: int, offset: int, distribution: str) -> None:
    _, kernel = backends.select("normal_", out.device.type)
    kernel(out, to_unsigned(seed), stream, lane, offset, distribution)


define(
    "normal_(Tensor(a!) out, int seed, int stream, int lane, int offset, str distribution) -> ()",
    _normal,
    lambda *_: None,
)
