"""`adamu_probe_` and `adamu_update_` in plain PyTorch; the formulas are in `zokern.ops.adamu`."""

from __future__ import annotations

from torch import Tensor

from ..call.rules import AdaMURule
from .exact import div, fma, sqrt
from .perturb import Piece, decayed, plus, walk


def momentum(piece: Piece, m: Tensor, seed: int, rule: AdaMURule) -> tuple[Tensor, Tensor, Tensor]:
    """(m_t, the simulated gradient, the simulated momentum), flat, of the fp32 state `m`."""
    gradient = rule.root_alpha * piece.z(seed)
    past = fma(rule.root_rest, piece.z(seed, lane=1), m.reshape(-1))
    return fma(rule.beta1, gradient, rule.rest1 * past), gradient, past


def adamu_probe_(
    params: list[Tensor], out: list[Tensor], exp_avgs: list[Tensor], seed: int, scale: float,
    decay: float, rule: AdaMURule, streams: list[int], offsets: list[int], rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.adamu`."""
    for piece, (p, target, m) in walk(streams, offsets, params, out, exp_avgs):
        direction, _, _ = momentum(piece, m, seed, rule)
        value = plus(decayed(p, decay), scale, direction)
        target.copy_(piece.rounded(value, p.dtype, seed, rounding).view(p.shape))


def adamu_update_(
    params: list[Tensor], out: list[Tensor], exp_avgs: list[Tensor], seed: int, scale: float,
    displacement: float, decay: float, rule: AdaMURule, streams: list[int], offsets: list[int],
    rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.adamu`."""
    for piece, (p, target, m) in walk(streams, offsets, params, out, exp_avgs):
        direction, gradient, past = momentum(piece, m, seed, rule)
        v = fma(rule.beta2 * gradient, gradient, (rule.rest2 * past) * past)
        value = plus(decayed(p, decay), displacement, direction)
        value = plus(value, scale, div(direction, sqrt(v + rule.sigma)))
        m.copy_((rule.momentum_scale * direction).view(m.shape))
        target.copy_(piece.rounded(value, p.dtype, seed, rounding).view(p.shape))
