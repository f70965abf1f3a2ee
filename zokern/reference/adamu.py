"""`adamu_probe_` and `adamu_update_` in plain PyTorch; the formulas are in `zokern.ops.adamu`."""

from __future__ import annotations

from torch import Tensor

from ..call.rules import AdaMURule
from .exact import div, fma, sqrt
from .normal import gaussian
from .perturb import decayed, pieces, plus, rounded


def momentum(m: Tensor, first: int, seed: int, stream: int, rule: AdaMURule) -> tuple[Tensor, Tensor, Tensor]:
    """(m_t, the simulated gradient, the simulated momentum) of the flat fp32 state `m`."""
    n1, n2 = (gaussian(first, m.numel(), seed, stream, lane, m.device) for lane in (0, 1))
    gradient = rule.root_alpha * n1
    past = fma(rule.root_rest, n2, m)
    return fma(rule.beta1, gradient, rule.rest1 * past), gradient, past


def adamu_probe_(
    params: list[Tensor], out: list[Tensor], exp_avgs: list[Tensor], seed: int, scale: float,
    decay: float, rule: AdaMURule, streams: list[int], offsets: list[int], rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.adamu`."""
    for source, target, state, stream, offset in zip(params, out, exp_avgs, streams, offsets):
        for first, (s, t, m) in pieces(source, target, state):
            at = offset + first
            direction, _, _ = momentum(m.reshape(-1), at, seed, stream, rule)
            value = plus(decayed(s.reshape(-1), decay), scale, direction)
            t.copy_(rounded(value, s.dtype, at, seed, stream, rounding).view(t.shape))


def adamu_update_(
    params: list[Tensor], out: list[Tensor], exp_avgs: list[Tensor], seed: int, scale: float,
    displacement: float, decay: float, rule: AdaMURule, streams: list[int], offsets: list[int],
    rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.adamu`."""
    for source, target, state, stream, offset in zip(params, out, exp_avgs, streams, offsets):
        for first, (s, t, m) in pieces(source, target, state):
            at = offset + first
            direction, gradient, past = momentum(m.reshape(-1), at, seed, stream, rule)
            v = fma(rule.beta2 * gradient, gradient, (rule.rest2 * past) * past)
            value = plus(decayed(s.reshape(-1), decay), displacement, direction)
            value = plus(value, scale, div(direction, sqrt(v + rule.sigma)))
            m.copy_((rule.momentum_scale * direction).view(m.shape))
            t.copy_(rounded(value, s.dtype, at, seed, stream, rounding).view(t.shape))
