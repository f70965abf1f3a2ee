"""`adam_`: the adaptive-moment update, from weights as the last probe left them to updated weights."""

from __future__ import annotations

from collections.abc import Sequence

from ..call.checks import as_list, check_choice, check_factors, check_fp32, check_seeds
from ..call.codes import DISTRIBUTIONS, ROUNDINGS, VARIANTS
from ..call.lists import Tensors, check_lists
from ..call.rules import AdamRule
from ._library import ListOp

_ADAM = ListOp(
    "adam_",
    "Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] max_exp_avg_sqs, int[] seeds, "
    "float[] grads, float[] displacements, float decay, float[] rule, str variant, int[] streams, "
    "int[] offsets, str distribution, str rounding",
    AdamRule,
)


def adam_(
    params: Tensors, exp_avgs: Tensors, exp_avg_sqs: Tensors, seeds: int | Sequence[int],
    grads: float | Sequence[float], *, lr: float, betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8, step: int | None, variant: str = "adam", max_exp_avg_sqs: Tensors | None = None,
    l2: float = 0.0, decay: float = 1.0, displacements: float | Sequence[float] | None = None,
    streams: Sequence[int] | None = None, offsets: Sequence[int] | None = None,
    distribution: str = "gaussian", rounding: str = "nearest", out: Tensors | None = None,
) -> None:  # fmt: skip
    r"""One step of Adam, AdaMax or AdaMM (AMSGrad) on the zeroth-order gradient, in one pass.

    .. math::
        \theta_0 = \mathrm{decay}\cdot\theta + \sum_k \mathrm{displacements}_k\, z_k, \qquad
        g = \sum_k \mathrm{grads}_k\, z_k + \mathrm{l2}\cdot\theta_0, \qquad
        \theta \leftarrow \theta_0 - \eta\, u(g, m, v)

    The gradient is never stored: z_k = z(seeds[k]) is regenerated in registers, once for both sums.
    `decay` and `displacements` are the way from what is in memory (the weights at the last probe) to the
    weights that the update starts from, so restore and update are one pass; fold decoupled weight
    decay (AdamW) into both, multiplied by `1 - lr * weight_decay`.

    Exactly, in fp32 with every operation rounded once (fma fused; sqrt and / correctly rounded), sums
    folded left over k, constants computed in float64 and rounded to fp32:

        w = decay * p;                  w = fma(displacements[k], z_k, w)  for k = 0, 1, ...
        g = 0;                          g = fma(grads[k], z_k, g)          for k = 0, 1, ...
        g = fma(l2, w, g)  unless l2 is 0
        m = fma(beta1, m, (1-beta1) * g)
        adam, adamm:  v = fma(beta2, v, ((1-beta2) * g) * g);    adamm: q = top = max(top, v), adam: q = v
                      u = m / fma(1/sqrt(1-beta2^step), sqrt(q), eps)
        adamax:       v = max(beta2 * v, |g| + eps);   u = m / v
        p = fma(-(lr/(1-beta1^step)), u, w), rounded to the dtype once

    with max(a, b) = a if a > b else b. For float64 parameters w and p are float64 (w enters g as fp32)
    and the state stays fp32. All backends give the same bits.

    Args:
        params: tensors as in `perturb_`.
        exp_avgs: m, a float32 tensor of the same shape for each, updated in place.
        exp_avg_sqs: v (for "adamax" the infinity norm), likewise.
        seeds: 64-bit unsigned seeds, one or more.
        grads: projected gradient of each seed, already divided by the number of queries.
        lr: learning rate \eta.
        betas: decay rates of m and v, in [0, 1).
        eps: added to the denominator, above 0 in fp32.
        step: count of this update, from 1, for the bias corrections; None leaves them out.
        variant: "adam", "adamax" or "adamm".
        max_exp_avg_sqs: the running maximum of v, for "adamm" and for nothing else.
        l2: weight decay through the gradient, as `torch.optim.Adam` does it.
        decay: factor of the present value.
        displacements: coefficient of each seed in the weights before the update; default 0.
        streams, offsets, distribution, rounding: as in `perturb_`.
        out: where to write the parameters, which then stay untouched; the state is in place anyway.

    Raises:
        TypeError, ValueError, RuntimeError: as `perturb_`, and for state that is not float32 or a number
            that is out of range; after an error all tensors are as they were.

    Cost: parameters, m and v (and the maximum) read and written once, 24 (32) bytes an element in
        fp32; `len(seeds)` normals an element; allocates no tensor.

    Source: Kingma and Ba 2015 (arXiv:1412.6980), Algorithms 1 and 2; Loshchilov and Hutter 2019
        (arXiv:1711.05101); ZO-AdaMM: Chen et al. 2019 (arXiv:1910.06513), Algorithm 1.

    Example:
        >>> w, m, v = torch.zeros(3, 1000).unbind()
        >>> zokern.adam_([w], [m], [v], seeds=7, grads=0.3, lr=1e-3, step=1)
    """
    seed_list = check_seeds("seeds", as_list(seeds, int, "seeds"))
    if not seed_list:
        raise ValueError("seeds must hold at least one seed, got seeds=[]")
    count = len(seed_list)
    grad_list = check_factors("grads", grads, count)
    moves = [0.0] * count if displacements is None else check_factors("displacements", displacements, count)
    factor = check_fp32("decay", decay)
    check_choice("variant", variant, VARIANTS)
    check_choice("distribution", distribution, DISTRIBUTIONS)
    check_choice("rounding", rounding, ROUNDINGS)
    rule = AdamRule.of(lr, betas, eps, step, l2)
    if (max_exp_avg_sqs is not None) != (variant == "adamm"):
        given = "none" if max_exp_avg_sqs is None else "some"
        raise ValueError(f"max_exp_avg_sqs goes with variant='adamm', got variant={variant!r} and {given}")
    states = {"exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    if max_exp_avg_sqs is not None:
        states["max_exp_avg_sqs"] = max_exp_avg_sqs
    lists = check_lists(params, out, streams, offsets, states)
    m, v, *top = lists.states
    _ADAM(
        lists, m, v, top[0] if top else [], seed_list, grad_list, moves, factor, rule, variant, lists.streams,
        lists.offsets, distribution, rounding,
    )  # fmt: skip
