"""TT-SVD: the tensor train nearest, rank by rank, to a given matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..call.checks import as_number
from .factorize import clip_ranks, each_rank

__all__ = ["tt_svd"]


def tt_svd(
    matrix: Tensor,
    in_modes: Sequence[int],
    out_modes: Sequence[int],
    *,
    rank: int | Sequence[int] | None = None,
    tolerance: float | None = None,
) -> tuple[list[Tensor], float]:
    r"""Cores whose matrix is close to `matrix`.

    The matrix is unfolded at each boundary in turn and cut off after an SVD. With a tolerance, every
    cut may lose :math:`\mathrm{tolerance}\,\|W\| / \sqrt{n - 1}`, so that the whole loses at most
    :math:`\mathrm{tolerance}\,\|W\|` (Frobenius). The cores are then given one common root mean square,
    which leaves their product as it is.

    Args:
        matrix: (in, out).
        in_modes, out_modes: factors of the two sizes.
        rank: largest inner rank, or each of them.
        tolerance: largest relative error, in [0, 1). With both, whichever cuts more.

    Returns:
        The cores in float64, and the relative error ||W - W_tt|| / ||W|| (0 for a zero matrix).

    Raises:
        ValueError: neither rank nor tolerance is given, one is out of range, modes do not fit.

    Source: Oseledets 2011, "Tensor-train decomposition", algorithm 1.
    """
    sizes = [*in_modes, *out_modes]
    if matrix.dim() != 2 or (math.prod(in_modes), math.prod(out_modes)) != tuple(matrix.shape):
        raise ValueError(
            f"modes {list(in_modes)} and {list(out_modes)} do not multiply to the matrix's shape "
            f"{tuple(matrix.shape)}"
        )
    if rank is None and tolerance is None:
        raise ValueError("rank or tolerance must be given, got rank=None and tolerance=None")
    if tolerance is not None and not 0.0 <= as_number("tolerance", tolerance) < 1.0:
        raise ValueError(f"tolerance must be in [0, 1), got {tolerance!r}")
    count = len(sizes)
    most = clip_ranks(sizes, [2**62] * (count - 1) if rank is None else each_rank(rank, count))
    target = matrix.detach().double()
    norm = float(target.norm())
    slack = 0.0 if tolerance is None else (tolerance * norm) ** 2 / max(count - 1, 1)
    cores: list[Tensor] = []
    rest, left = target.reshape(1, -1), 1
    for i in range(count - 1):
        u, s, vh = torch.linalg.svd(rest.reshape(left * sizes[i], -1), full_matrices=False)
        keep = min(most[i], len(s))
        if tolerance is not None:
            tails = s.square().flip(0).cumsum(0).flip(0)  # [j]: what is lost by keeping j
            keep = min(keep, max(1, int((tails > slack).sum())))
        cores.append(u[:, :keep].reshape(left, sizes[i], keep))
        rest, left = s[:keep, None] * vh[:keep], keep
    cores.append(rest.reshape(left, sizes[-1], 1))
    cores = _balance(cores)
    if norm == 0.0:
        return cores, 0.0
    return cores, float((target - _matrix(cores, len(in_modes))).norm()) / norm


def _balance(cores: list[Tensor]) -> list[Tensor]:
    """The same product with all cores at one root mean square."""
    levels = [float(core.square().mean().sqrt()) for core in cores]
    if not all(levels):
        return cores
    common = math.exp(sum(map(math.log, levels)) / len(levels))
    return [core * (common / level) for core, level in zip(cores, levels)]


def _matrix(cores: Sequence[Tensor], split: int) -> Tensor:
    product = torch.ones(1, 1, dtype=cores[0].dtype, device=cores[0].device)
    for core in cores:
        product = torch.einsum("ma,akb->mkb", product, core).reshape(-1, core.shape[-1])
    return product.reshape(math.prod(core.shape[1] for core in cores[:split]), -1)
