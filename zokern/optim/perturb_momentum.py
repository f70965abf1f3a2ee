"""A momentum of past perturbations, with annealed uncertainty: what ZO-AdaMU perturbs along."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from ..call.checks import check_integer, check_share, kept, shown
from ..ops import adamu_probe_
from .moves import Direction, Pass
from .perturbation import Directions, Perturbation, StepStart

WARMUP = 1024

Schedule = Callable[[int], tuple[float, float, float]]


@dataclass(frozen=True)
class AdaMUSchedule:
    r"""\alpha, \beta_1 and \beta_2 as functions of the step t = 1, 2, ..., T, never changed in place.

    .. math:: s(t) = \begin{cases} 1 & t < T_1 \
              e + (1 - e)\,\tfrac12 \left(1 + \cos \pi \tfrac{t - T_1}{T_2 - T_1}\right) & T_1 \le t < T_2 \
              e & T_2 \le t \end{cases}

    with its own end value e for each of the three.

    Args:
        total_steps: T, of the run.
        warmup: T_1, first step of the descent; default min(1024, 10 % of T).
        settled: T_2, first step at the end value; default 80 % of T.
        alpha, beta1, beta2: end values, in [0, 1].

    Raises ValueError where a number is out of range, or `settled` comes before `warmup`.

    Source: equation 7 of Jiang et al. 2024 (arXiv:2312.15184) is not computable as printed; this keeps
        its three stages and the end values stated beside it.

    Example:
        >>> [round(a, 3) for a in AdaMUSchedule(1000)(450)]
        [0.75, 0.95, 0.505]
    """

    total_steps: int
    warmup: int | None = None
    settled: int | None = None
    alpha: float = 0.5
    beta1: float = 0.9
    beta2: float = 0.01

    def __post_init__(self) -> None:
        kept(self, "total_steps", check_integer("total_steps", self.total_steps, 1))
        for name in ("warmup", "settled"):
            if getattr(self, name) is not None:
                kept(self, name, check_integer(name, getattr(self, name), 0))
        for name in ("alpha", "beta1", "beta2"):
            kept(self, name, check_share(name, getattr(self, name)))
        start, stop = self.stages
        if stop < start:
            raise ValueError(f"settled must be >= warmup = {start}, got {stop}")

    @property
    def stages(self) -> tuple[int, int]:
        """T_1 and T_2."""
        start = min(WARMUP, self.total_steps // 10) if self.warmup is None else self.warmup
        stop = max(start, self.total_steps * 4 // 5) if self.settled is None else self.settled
        return start, stop

    def __call__(self, t: int) -> tuple[float, float, float]:
        """(alpha, beta1, beta2) of step t, from 1."""
        start, stop = self.stages
        if t < start:
            left = 1.0
        elif t < stop:
            left = 0.5 * (1.0 + math.cos(math.pi * (t - start) / (stop - start)))
        else:
            left = 0.0
        alpha, beta1, beta2 = (end + (1.0 - end) * left for end in (self.alpha, self.beta1, self.beta2))
        return alpha, beta1, beta2


@dataclass(frozen=True)
class Momentum(Perturbation):
    r"""z drawn around a stored momentum m, as `ZOAdaMU` has it; no other method writes m.

    .. math:: m_t = \beta_1 \sqrt\alpha\, n_1 + (1-\beta_1) (m_{t-1} + \sqrt{1-\alpha}\, n_2)

    Args:
        schedule: \alpha, \beta_1 and \beta_2 of step t = 1, 2, ...
    """

    schedule: Schedule

    reads_momentum = True

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            raise TypeError(f"schedule must be a function of the step, got {shown(self.schedule)}")

    def bind(self, distribution: str) -> Directions:
        return MomentumDirections(self.schedule)


@dataclass(frozen=True)
class MomentumDirection:
    """m_t: drawn with `seed` around the stored momentum."""

    seed: int
    alpha: float
    beta1: float


class MomentumDirections(Directions):
    """Passes along directions around the momenta, which they read."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule
        self.momenta: dict[int, Tensor] = {}  # by ordinal of their trainable
        self.alpha = self.beta1 = self.beta2 = 1.0  # of the present step

    def begin(self, start: StepStart) -> None:
        self.alpha, self.beta1, self.beta2 = self.schedule(start.step + 1)

    def direction(self, seed: int) -> MomentumDirection:
        return MomentumDirection(seed, self.alpha, self.beta1)

    def apply(self, work: Pass) -> None:
        if work.is_identity():
            return
        source, decay = work.source, work.decay
        moving = [(cast(MomentumDirection, key), scale) for key, scale in work.terms.items() if scale != 0.0]
        if not moving:
            for s, t in zip(source, work.target):
                t.copy_(s if decay == 1.0 else s * decay)
        for direction, scale in moving:
            adamu_probe_(
                source,
                [self.momenta[i] for i in work.indices],
                direction.seed,
                scale,
                alpha=direction.alpha,
                beta1=direction.beta1,
                decay=decay,
                streams=work.indices,
                out=None if work.target is source else work.target,
            )
            source, decay = work.target, 1.0

    def to_plain(self, direction: Direction) -> Any:
        drawn = cast(MomentumDirection, direction)
        return (drawn.seed, drawn.alpha, drawn.beta1)

    def from_plain(self, plain: Any) -> Direction:
        return MomentumDirection(*plain)
