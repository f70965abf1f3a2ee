"""The constants of the adaptive updates, by name, each an fp32 number computed in float64.

The order of the fields is the order in which the schemas (`float[] rule`) and the structs `zk_adam_rule` and
`zk_adamu_rule` of `csrc/zokern.h` carry them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from .checks import check_fp32

R = TypeVar("R", bound="_Rule")


class _Rule:
    @classmethod
    def from_list(cls: type[R], values: Sequence[float]) -> R:
        """The rule that `as_list` wrote."""
        return cls(*values)

    def as_list(self) -> list[float]:
        """The constants in the order of the schema and the C struct."""
        return list(vars(self).values())


@dataclass(frozen=True)
class AdamRule(_Rule):
    """The constants of Adam, AdaMax and AdaMM; `zokern.ops.adam_` has the formulas.

    beta1, rest1: the decay rate of m, and 1 - beta1.
    beta2, rest2: the decay rate of v, and 1 - beta2.
    step_size: lr / (1 - beta1^step).
    root_scale: 1 / sqrt(1 - beta2^step).
    eps: added to the denominator.
    l2: weight decay through the gradient.
    """

    beta1: float
    rest1: float
    beta2: float
    rest2: float
    step_size: float
    root_scale: float
    eps: float
    l2: float

    @classmethod
    def of(
        cls, lr: float, betas: tuple[float, float], eps: float, step: int | None, l2: float
    ) -> AdamRule:  # fmt: skip
        """The rule of update number `step`; None leaves the bias corrections out.

        Raises:
            ValueError: an argument is out of range, by name and value.
        """
        for k, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"betas[{k}] must be in [0, 1), got {beta}")
        if step is not None and (isinstance(step, bool) or not isinstance(step, int) or step < 1):
            raise ValueError(f"step must be an integer from 1, or None, got {step!r}")
        beta1, beta2 = betas
        correction1, correction2 = (1.0, 1.0) if step is None else (1.0 - beta1**step, 1.0 - beta2**step)
        small = check_fp32("eps", eps)
        if small <= 0.0:
            raise ValueError(f"eps must be above 0 in fp32, got {eps}")
        check_fp32("lr", lr)
        return cls(
            beta1=check_fp32("betas[0]", beta1),
            rest1=check_fp32("betas[0]", 1.0 - beta1),
            beta2=check_fp32("betas[1]", beta2),
            rest2=check_fp32("betas[1]", 1.0 - beta2),
            step_size=check_fp32("lr", lr / correction1),
            root_scale=check_fp32("step", 1.0 / math.sqrt(correction2)),
            eps=small,
            l2=check_fp32("l2", l2),
        )


@dataclass(frozen=True)
class AdaMURule(_Rule):
    """The constants of ZO-AdaMU; `zokern.ops.adamu_update_` has the formulas.

    root_alpha, root_rest: sqrt(alpha) and sqrt(1 - alpha).
    beta1, rest1: the weight of the simulated gradient, and 1 - beta1.

    The update alone reads the rest; a probe carries the defaults.

    beta2, rest2: the weight of the simulated gradient's square, and 1 - beta2.
    sigma: added under the root.
    momentum_scale: factor of the stored momentum.
    """

    root_alpha: float
    root_rest: float
    beta1: float
    rest1: float
    beta2: float = 0.0
    rest2: float = 0.0
    sigma: float = 1.0
    momentum_scale: float = 1.0

    @classmethod
    def of_probe(cls, alpha: float, beta1: float) -> AdaMURule:
        """The rule of the direction m_t.

        Raises:
            ValueError: an argument is out of range, by name and value.
        """
        for name, number in (("alpha", alpha), ("beta1", beta1)):
            if not 0.0 <= number <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {number}")
        return cls(
            root_alpha=check_fp32("alpha", math.sqrt(alpha)),
            root_rest=check_fp32("alpha", math.sqrt(1.0 - alpha)),
            beta1=check_fp32("beta1", beta1),
            rest1=check_fp32("beta1", 1.0 - beta1),
        )

    @classmethod
    def of_update(
        cls, alpha: float, beta1: float, beta2: float, sigma: float, momentum_scale: float
    ) -> AdaMURule:
        """The rule of the update: that of the direction, and what the step divides by.

        Raises:
            ValueError: an argument is out of range, by name and value.
        """
        probe = cls.of_probe(alpha, beta1)
        if not 0.0 <= beta2 <= 1.0:
            raise ValueError(f"beta2 must be in [0, 1], got {beta2}")
        small = check_fp32("sigma", sigma)
        if small <= 0.0:
            raise ValueError(f"sigma must be above 0 in fp32, got {sigma}")
        return cls(
            probe.root_alpha,
            probe.root_rest,
            probe.beta1,
            probe.rest1,
            beta2=check_fp32("beta2", beta2),
            rest2=check_fp32("beta2", 1.0 - beta2),
            sigma=small,
            momentum_scale=check_fp32("momentum_scale", momentum_scale),
        )
