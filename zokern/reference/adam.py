"""`adam_` in plain PyTorch; the formula is in `zokern.ops.adam_`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..call.rules import AdamRule
from .exact import div, fma, sqrt
from .perturb import decayed, plus, walk


def moments(
    g: Tensor, rule: AdamRule, variant: str, m: Tensor, v: Tensor, top: Tensor | None = None
) -> Tensor:
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
    lists = (params, out, exp_avgs, exp_avg_sqs, max_exp_avg_sqs)
    for piece, (p, target, *state) in walk(streams, offsets, *lists):
        value = decayed(p, decay)
        g = torch.zeros(piece.count, device=p.device)
        for seed, grad, displacement in zip(seeds, grads, displacements):
            z = piece.z(seed, distribution)
            value = plus(value, displacement, z)
            g = fma(grad, z, g)
        g = fma(rule.l2, value.float(), g) if rule.l2 else g
        flat = [x.reshape(-1).clone() for x in state]
        value = plus(value, -rule.step_size, moments(g, rule, variant, *flat))
        for x, new in zip(state, flat):
            x.copy_(new.view(x.shape))
        target.copy_(piece.rounded(value, p.dtype, seeds[0], rounding).view(p.shape))
