"""Cores whose product has the standard deviation asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..call.checks import check_device, check_finite, check_fp32, check_kind, shown

__all__ = ["fill_cores_", "frobenius_norm"]


def frobenius_norm(cores: Sequence[Tensor]) -> float:
    r"""||W|| of the matrix that cores (r_{i-1}, k_i, r_i) stand for, without forming it.

    The Gram matrix of the part left of a boundary passes through one core at a time:
    M <- sum_k G_k^T M G_k. Cost: sum of k_i r^3, in float64.
    """
    gram = torch.ones(1, 1, dtype=torch.float64, device=cores[0].device)
    for core in cores:
        g = core.detach().double()
        gram = torch.einsum("ab,akc,bkd->cd", gram, g, g)
    return math.sqrt(max(float(gram), 0.0))


def start_std(name: str, std: float | None, size: int) -> float:
    """The root mean square to draw, checked: as given, or the one that keeps `size` features' scale."""
    number = size**-0.5 if std is None else check_finite(name, std)
    if number < 0:
        raise ValueError(f"{name} must be finite and >= 0, got {shown(std)}")
    return check_fp32(name, number)


def check_place(generator: object, device: object) -> None:
    """What start values are drawn by, and where parameters go."""
    if generator is not None:
        check_kind("generator", generator, torch.Generator, "a torch.Generator or None")
    check_device("device", device)


@torch.no_grad()
def fill_cores_(cores: Sequence[Tensor], std: float, generator: torch.Generator | None = None) -> None:
    r"""Draws Gaussian cores, in place, such that the entries of W have the root mean square `std`.

    An entry of W is a sum over :math:`\prod r_i` paths of products of n Gaussians, so with all cores of
    one scale :math:`\sigma`,

    .. math:: \mathrm{var}\, W = \sigma^{2n} \prod_i r_i .

    A short product of Gaussians strays far from its mean (a factor of 2 at rank 5 is common), so the
    drawn cores are scaled to meet `std` exactly, each by the same factor. Initialising the cores as
    if they were the matrix gives a W 135 to 1370 times too small.

    Args:
        cores: of shape (r_{i-1}, k_i, r_i).
        std: root mean square of W's entries, >= 0; with 0 all cores are drawn as for 1 and the last
            is zero.
        generator: of the CPU; default PyTorch's own. Values do not depend on the cores' device.
    """
    for core in cores:
        core.copy_(torch.randn(core.shape, generator=generator, dtype=torch.float32))
    size = math.prod(core.shape[1] for core in cores)
    factor = ((std or 1.0) * math.sqrt(size) / frobenius_norm(cores)) ** (1 / len(cores))
    for core in cores:
        core.mul_(factor)
    if std == 0.0:
        cores[-1].zero_()
