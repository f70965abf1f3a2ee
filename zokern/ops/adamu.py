"""`adamu_probe_` and `adamu_update_`: ZO-AdaMU's direction, drawn around a dense momentum."""

from __future__ import annotations

from collections.abc import Sequence

from ..call.checks import as_number, check_choice, check_fp32, check_seed
from ..call.codes import ROUNDINGS
from ..call.lists import Tensors, check_lists
from ..call.rules import AdaMURule
from ._library import ListOp

_PROBE = ListOp(
    "adamu_probe_",
    "Tensor[] exp_avgs, int seed, float scale, float decay, float[] rule, int[] streams, int[] offsets, "
    "str rounding",
    AdaMURule,
)
_UPDATE = ListOp(
    "adamu_update_",
    "Tensor(b!)[] exp_avgs, int seed, float scale, float displacement, float decay, float[] rule, "
    "int[] streams, int[] offsets, str rounding",
    AdaMURule,
)


def adamu_probe_(
    params: Tensors, exp_avgs: Tensors, seed: int, scale: float, *, alpha: float, beta1: float,
    decay: float = 1.0, streams: Sequence[int] | None = None, offsets: Sequence[int] | None = None,
    rounding: str = "nearest", out: Tensors | None = None,
) -> None:  # fmt: skip
    r"""Moves weights along ZO-AdaMU's direction m_t; the state is read, not written.

    .. math::
        m_t = \beta_1 \sqrt\alpha\, n_1 + (1-\beta_1)\,(m + \sqrt{1-\alpha}\, n_2), \qquad
        \theta \leftarrow \mathrm{decay}\cdot\theta + \mathrm{scale}\cdot m_t

    n_1 and n_2 are lanes 0 and 1 of one seed, regenerated in registers. Exactly, in fp32 (constants
    rounded from float64):

        a = sqrt(alpha) * n1;   b = fma(sqrt(1-alpha), n2, m);   m_t = fma(beta1, a, (1-beta1) * b)
        p = fma(scale, m_t, decay * p), rounded to the dtype once

    Args:
        params: tensors as in `perturb_`.
        exp_avgs: m, a float32 tensor of the same shape for each.
        seed: 64-bit unsigned seed.
        scale: coefficient of m_t.
        alpha: share of the variance that the simulated gradient has, in [0, 1].
        beta1: weight of the simulated gradient, in [0, 1].
        decay, streams, offsets, rounding, out: as in `perturb_`.

    Raises:
        TypeError, ValueError, RuntimeError: as `perturb_`; after an error all tensors are as they were.

    Cost: parameters read and written, m read: 12 bytes and two normals an element in fp32; allocates
        no tensor.

    Source: ZO-AdaMU (Jiang et al. 2024, arXiv:2312.15184), Algorithm 1.

    Example:
        >>> w, m = torch.zeros(2, 1000).unbind()
        >>> zokern.adamu_probe_([w], [m], seed=7, scale=1e-3, alpha=0.9, beta1=0.95)
    """
    value = check_seed("seed", seed)
    rule = AdaMURule.of_probe(alpha, beta1)
    numbers = (check_fp32("scale", scale), check_fp32("decay", decay))
    check_choice("rounding", rounding, ROUNDINGS)
    lists = check_lists(params, out, streams, offsets, {"exp_avgs": exp_avgs})
    _PROBE(lists, *lists.states, value, *numbers, rule, lists.streams, lists.offsets, rounding)


def adamu_update_(
    params: Tensors, exp_avgs: Tensors, seed: int, grad: float, *, lr: float, alpha: float, beta1: float,
    beta2: float, sigma: float = 1e-8, momentum_scale: float = 1.0, decay: float = 1.0,
    displacement: float = 0.0, streams: Sequence[int] | None = None, offsets: Sequence[int] | None = None,
    rounding: str = "nearest", out: Tensors | None = None,
) -> None:  # fmt: skip
    r"""ZO-AdaMU's update: restores, updates and stores the momentum in one pass.

    .. math::
        v = \beta_2 \dot z^2 + (1-\beta_2) \ddot z^2, \qquad
        \theta \leftarrow \mathrm{decay}\cdot\theta + \mathrm{displacement}\cdot m_t
                          - \eta\, g\, \frac{m_t}{\sqrt{v + \sigma}}, \qquad
        m \leftarrow \mathrm{momentum\_scale}\cdot m_t

    with a = \dot z, b = \ddot z and m_t those of `adamu_probe_`. Exactly, in fp32:

        v = fma(beta2 * a, a, ((1-beta2) * b) * b)
        w = fma(displacement, m_t, decay * p)
        p = fma(-(lr*grad), m_t / sqrt(v + sigma), w), rounded to the dtype once
        m = momentum_scale * m_t

    with sqrt and / correctly rounded and constants rounded from float64.

    Args:
        params: tensors as in `perturb_`.
        exp_avgs: m, a float32 tensor of the same shape for each, updated in place.
        seed: 64-bit unsigned seed of the probe.
        grad: projected gradient g.
        lr: learning rate \eta.
        alpha, beta1: as in the probe.
        beta2: weight of the simulated gradient's square, in [0, 1].
        sigma: added under the root, above 0 in fp32.
        momentum_scale: factor of the stored momentum: 1, or sign(g) to orient it downhill.
        decay: factor of the present value; fold weight decay into it and into `displacement`.
        displacement: coefficient of m_t that leads from memory to the weights before the update, -eps
            after a probe at +eps.
        streams, offsets, rounding, out: as in `perturb_`; m is in place anyway.

    Raises:
        TypeError, ValueError, RuntimeError: as `perturb_`; after an error all tensors are as they were.

    Cost: parameters and m read and written once: 16 bytes and two normals an element in fp32;
        allocates no tensor.

    Source: ZO-AdaMU (Jiang et al. 2024, arXiv:2312.15184), Algorithm 1.

    Example:
        >>> w, m = torch.zeros(2, 1000).unbind()
        >>> zokern.adamu_update_([w], [m], 7, grad=0.3, lr=1e-3, alpha=0.9, beta1=0.95, beta2=0.9)
    """
    value = check_seed("seed", seed)
    rule = AdaMURule.of_update(alpha, beta1, beta2, sigma, momentum_scale)
    check_fp32("grad", grad), check_fp32("lr", lr)
    numbers = (
        check_fp32("lr * grad", -as_number("lr", lr) * as_number("grad", grad)),
        check_fp32("displacement", displacement),
        check_fp32("decay", decay),
    )
    check_choice("rounding", rounding, ROUNDINGS)
    lists = check_lists(params, out, streams, offsets, {"exp_avgs": exp_avgs})
    _UPDATE(lists, *lists.states, value, *numbers, rule, lists.streams, lists.offsets, rounding)
