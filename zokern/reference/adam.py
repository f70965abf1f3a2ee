"""`adam_` in plain PyTorch; the formula is in `zokern.ops.adam_`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..call.rules import AdamRule
from .exact import div, fma, sqrt
from .normal import DISTRIBUTIONS
from .perturb import decayed, pieces, plus, rounded


def moments(g: Tensor, m: Tensor, v: Tensor, top: Tensor | None, rule: AdamRule, variant: str) -> Tensor:
    """Updates the flat fp32 state in place; the direction of the step."""
    m.copy_(fma(rule.beta1, m, rule.rest1 * g))
    if variant == "adamax":
        old, new = rule.beta2 * v, g.abs() + rule.eps
        return div(m, v.copy_(torch.where(old > new, old, new)))
    v.copy_(fma(rule.beta2, v, (rule.rest2 * g) * g))
    if top is not None:
        v = top.copy_(torch.where(top > v, top, v))
    return div(m, fma(rule.root_scale, sqrt(v), rule.eps))


def adam_(
    params: list[Tensor], out: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor], seeds: list[int], grads: list[float], displacements: list[float],
    decay: float, rule: AdamRule, variant: str, streams: list[int], offsets: list[int],
    distribution: str, rounding: str,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.adam`."""
    for i, (source, target, stream) in enumerate(zip(params, out, streams)):
        states = [s[i] for s in (exp_avgs, exp_avg_sqs, max_exp_avg_sqs) if s]
        for first, (s, t, *state) in pieces(source, target, *states):
            at = offsets[i] + first
            value = decayed(s.reshape(-1), decay)
            g = torch.zeros(s.numel(), device=s.device)
            for seed, grad, displacement in zip(seeds, grads, displacements):
                z = DISTRIBUTIONS[distribution](at, s.numel(), seed, stream, 0, s.device)
                value = plus(value, displacement, z)
                g = fma(grad, z, g)
            g = fma(rule.l2, value.float(), g) if rule.l2 else g
            flat = [x.reshape(-1).clone() for x in state]
            direction = moments(g, flat[0], flat[1], flat[2] if state[2:] else None, rule, variant)
            value = plus(value, -rule.step_size, direction)
            for x, new in zip(state, flat):
                x.copy_(new.view(x.shape))
            t.copy_(rounded(value, s.dtype, at, seeds[0], stream, rounding).view(t.shape))
