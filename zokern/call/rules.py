"""The constants of the adaptive updates, by name, each an fp32 number computed in float64.

The order of the fields is the order in which the schemas (`float[] rule`) and the structs `zk_adam_rule` and
`zk_adamu_rule` of `csrc/zokern.h` carry them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from .checks import as_number, as_sequence, check_finite, check_fp32, check_integer, check_share, shown

R = TypeVar("R", bound="_Rule")


class _Rule:
    @classmethod
    def from_list(cls: type[R], values: Sequence[float]) -> R:
        """The rule that `as_list` wrote."""
        return cls(*values)

    def as_list(self) -> list[float]:
        """The constants in the order of the schema and the C struct."""
        return [*self.__dict__.values()]


def _check_above_0(name: str, value: float) -> float:
    number = check_fp32(name, value)
    if number <= 0.0:
        raise ValueError(f"{name} must be above 0 in fp32, got {value}")
    return number


def check_betas(betas: object) -> tuple[float, float]:
    """The decay rates of both moments, each in [0, 1)."""
    values = as_sequence("betas", betas, "two numbers")
    if len(values) != 2:
        raise ValueError(f"betas must be two numbers, got {shown(betas)}")
    first, second = (as_number(f"betas[{k}]", value) for k, value in enumerate(values))
    for k, beta in enumerate((first, second)):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"betas[{k}] must be in [0, 1), got {beta}")
    return first, second


@dataclass
class AdamRule(_Rule):
    """The constants of Adam, AdaMax and AdaMM; `zokern.ops.adam_` has the formulas."""

    beta1: float  # the decay rate of m
    rest1: float  # 1 - beta1
    beta2: float  # the decay rate of v
    rest2: float  # 1 - beta2
    step_size: float  # lr / (1 - beta1^step)
    root_scale: float  # 1 / sqrt(1 - beta2^step)
    eps: float  # added to the denominator
    l2: float  # weight decay through the gradient

    @classmethod
    def of(
        cls, lr: float, betas: tuple[float, float], eps: float, step: int | None, l2: float
    ) -> AdamRule:  # fmt: skip
        """The rule of update number `step`; None leaves the bias corrections out.

        Raises:
            ValueError: an argument is out of range, by name and value.
        """
        beta1, beta2 = check_betas(betas)
        if step is not None:
            step = check_integer("step", step, 1)
        correction1, correction2 = (1.0, 1.0) if step is None else (1.0 - beta1**step, 1.0 - beta2**step)
        small = _check_above_0("eps", eps)
        check_fp32("lr", lr)
        rate = check_finite("lr", lr)
        return cls(
            beta1=check_fp32("betas[0]", beta1),
            rest1=check_fp32("betas[0]", 1.0 - beta1),
            beta2=check_fp32("betas[1]", beta2),
            rest2=check_fp32("betas[1]", 1.0 - beta2),
            step_size=check_fp32("lr", rate / correction1),
            root_scale=check_fp32("step", 1.0 / math.sqrt(correction2)),
            eps=small,
            l2=check_fp32("l2", l2),
        )


@dataclass
class AdaMURule(_Rule):
    """The constants of ZO-AdaMU; `zokern.ops.adamu_update_` has the formulas. A probe carries the defaults."""

    root_alpha: float  # sqrt(alpha)
    root_rest: float  # sqrt(1 - alpha)
    beta1: float  # the weight of the simulated gradient
    rest1: float  # 1 - beta1
    beta2: float = 0.0  # the weight of the simulated gradient's square
    rest2: float = 0.0  # 1 - beta2
    sigma: float = 1.0  # added under the root
    momentum_scale: float = 1.0  # factor of the stored momentum

    @classmethod
    def of_probe(cls, alpha: float, beta1: float) -> AdaMURule:
        """The rule of the direction m_t.

        Raises:
            ValueError: an argument is out of range, by name and value.
        """
        alpha, beta1 = check_share("alpha", alpha), check_share("beta1", beta1)
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
        """The rule of the update: that of the direction, and what the step divides by. Raises as `of_probe`."""
        probe = cls.of_probe(alpha, beta1)
        beta2 = check_share("beta2", beta2)
        return replace(
            probe,
            beta2=check_fp32("beta2", beta2),
            rest2=check_fp32("beta2", 1.0 - beta2),
            sigma=_check_above_0("sigma", sigma),
            momentum_scale=check_fp32("momentum_scale", momentum_scale),
        )
