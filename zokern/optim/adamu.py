"""ZO-AdaMU: momentum and uncertainty in the perturbation itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import adamu_probe_, adamu_update_
from ._groups import check_number
from ._steps import Closure
from .base import ZerothOrderOptimizer
from .engine import Batch
from .schedules import QuerySchedule

WARMUP = 1024


@dataclass(frozen=True)
class AdaMUSchedule:
    r"""\alpha, \beta_1 and \beta_2 as functions of the step t = 1, 2, ..., T, never changed in place.

    .. math:: s(t) = \begin{cases} 1 & t < T_1 \\
              e + (1 - e)\,\tfrac12 \left(1 + \cos \pi \tfrac{t - T_1}{T_2 - T_1}\right) & T_1 \le t < T_2 \\
              e & T_2 \le t \end{cases}

    with its own end value e for each of the three.

    Args:
        total_steps: T, of the run.
        warmup: T_1, first step of the descent; default min(1024, 10 % of T).
        settled: T_2, first step at the end value; default 80 % of T.
        alpha, beta1, beta2: end values, in [0, 1].

    Raises:
        ValueError: a number is out of range, or `settled` comes before `warmup`.

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
        check_number("total_steps", self.total_steps, 1, integer=True)
        for name in ("warmup", "settled"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0, integer=True)
        for name in ("alpha", "beta1", "beta2"):
            check_number(name, getattr(self, name), 0.0)
            if getattr(self, name) > 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
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
        ends = (self.alpha, self.beta1, self.beta2)
        return tuple(end + (1.0 - end) * left for end in ends)  # type: ignore[return-value]


@dataclass(frozen=True)
class Direction:
    """m_t: drawn with `seed` around the stored momentum."""

    seed: int
    alpha: float
    beta1: float


@dataclass(frozen=True)
class _Probe:
    """A pass along directions around the momenta (by ordinal of their trainable), which are read."""

    momenta: dict[int, Tensor]

    def __call__(self, batch: Batch) -> None:
        if batch.is_identity():
            return
        source, decay = batch.source, batch.decay
        moving = [(key, scale) for key, scale in batch.terms.items() if scale != 0.0]
        if not moving:
            for s, t in zip(source, batch.target):
                t.copy_(s if decay == 1.0 else s * decay)
        for key, scale in moving:
            adamu_probe_(
                source,
                [self.momenta[i] for i in batch.indices],
                key.seed,  # type: ignore[attr-defined]
                scale,
                alpha=key.alpha,  # type: ignore[attr-defined]
                beta1=key.beta1,  # type: ignore[attr-defined]
                decay=decay,
                streams=batch.indices,
                out=None if batch.target is source else batch.target,
            )
            source, decay = batch.target, 1.0


class ZOAdaMU(ZerothOrderOptimizer):
    r"""Perturbs along a momentum of past perturbations, with annealed uncertainty.

    .. math::
        \dot z = \sqrt\alpha\, n_1, \quad \ddot z = m_{t-1} + \sqrt{1-\alpha}\, n_2, \quad
        m_t = \beta_1 \dot z + (1-\beta_1) \ddot z, \qquad
        g = \frac{\ell(\theta + \epsilon m_t) - \ell(\theta - \epsilon m_t)}{2\epsilon}

    .. math::
        v = \beta_2 \dot z^2 + (1-\beta_2) \ddot z^2, \qquad
        \theta \leftarrow (1-\eta\lambda)\,\theta - \eta\, g\, \frac{m_t}{\sqrt{v + \sigma}}

    n_1 and n_2 are two lanes of one seed. The probe and the update use the same m_t; probes do not
    change the stored m, the update writes it once. v is no average over time and takes no memory.

    Args:
        params: a module, `parameters()`, `named_parameters()` or param groups.
        lr: learning rate \eta.
        eps: perturbation scale \epsilon.
        schedule: \alpha, \beta_1, \beta_2 of the step: an `AdaMUSchedule`, or the number of steps of the
            run, which stands for one with the published ends. Any callable of t = 1, 2, ... that
            returns the three will do.
        sigma: \sigma, > 0.
        orient_momentum: store sign(g) m_t, as the authors' code does, in place of m_t, as the paper
            prints it.
        weight_decay: decoupled decay \lambda.
        num_queries: Q, directions a step, or a `QuerySchedule`. All start from the same m; updates and
            the stored m are their means. (The paper has Q = 1.)
        restore, lazy, rounding, seed, module: see `MeZO`.

    `lr`, `eps` and `weight_decay` may differ between param groups. m is fp32 whatever the dtype of the
    weights.

    Returns (of `step`):
        The mean of the losses at \theta +- \epsilon m_t.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range; it is named.

    Cost: 2 forwards, 2 probe passes (12 bytes and two normals an element in fp32) and the update pass
        (16 bytes). One fp32 buffer as large as the trainables. Q > 1 takes an update pass a query and
        transient copies of m, one tensor at a time. `lazy` saves nothing.

    Source: Jiang et al. 2024 (arXiv:2312.15184), Algorithm 1; \sqrt\alpha is a standard deviation.

    Example:
        >>> optimizer = zokern.optim.ZOAdaMU(model, lr=1e-5, schedule=10_000)
        >>> loss = optimizer.step(lambda: loss_fn(model(x), y))
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 1e-6,
        eps: float = 1e-3,
        *,
        schedule: AdaMUSchedule | int | Any,
        sigma: float = 1e-8,
        orient_momentum: bool = False,
        weight_decay: float = 0.0,
        num_queries: int | QuerySchedule = 1,
        restore: str = "auto",
        lazy: bool = False,
        rounding: str = "stochastic",
        seed: int = 0,
        module: nn.Module | None = None,
    ) -> None:
        self.schedule = schedule if callable(schedule) else AdaMUSchedule(schedule)
        self.sigma = check_number("sigma", sigma, 0.0, above=True)
        self.orient_momentum = orient_momentum
        self._momenta: dict[int, Tensor] = {}
        super().__init__(
            params,
            {"lr": lr, "weight_decay": weight_decay},
            eps=eps,
            seed=seed,
            lazy=lazy,
            restore=restore,
            rounding=rounding,
            num_queries=num_queries,
            module=module,
            apply=_Probe(self._momenta),
        )

    def step(self, closure: Closure) -> float:  # type: ignore[override]
        """One step. `closure` returns the loss and may be called any number of times."""
        self._find_momenta()
        loss, deltas = self.spsa(closure)
        # both g and lr * g are numbers of the update pass
        rates = [rate / group["eps"] for group in self.param_groups for rate in (1.0, group["lr"])]
        if not self.skips(*(delta * r for delta in deltas.values() for r in rates)):
            beta2 = self.schedule(self.steps + 1)[2]
            self.update(lambda batch: self._descend(batch, deltas, beta2))
        return loss

    def direction(self, seed: int) -> Direction:
        """m_t of the step, as this seed draws it."""
        alpha, beta1, _ = self.schedule(self.steps + 1)
        return Direction(seed, alpha, beta1)

    def _descend(self, batch: Batch, deltas: dict[Direction, float], beta2: float) -> None:
        """The update pass: from where the last probe left the weights, to the updated ones."""
        group = self.param_groups[batch.group]
        batch = batch.then(1.0 - group["lr"] * group["weight_decay"])
        if len(deltas) == 1:
            momenta = [self._momenta[i] for i in batch.indices]
            for direction, delta in deltas.items():
                self._add(batch, direction, delta / group["eps"], beta2, momenta)
            return
        # first the direction that the weights are displaced along: its pass also brings them back
        order = sorted(deltas, key=lambda direction: not batch.terms.get(direction))
        for n, i in enumerate(batch.indices):
            begun = self._momenta[i].clone()
            self._momenta[i].zero_()
            at = batch.part([n])
            for direction in order:
                drawn = begun.clone()
                grad = deltas[direction] / (group["eps"] * len(order))
                self._add(at, direction, grad, beta2, [drawn])
                self._momenta[i].add_(drawn, alpha=1.0 / len(order))
                at = replace(at, source=at.target, decay=1.0, terms={})

    def _add(
        self, batch: Batch, direction: Direction, grad: float, beta2: float, momenta: list[Tensor]
    ) -> None:
        adamu_update_(
            batch.source,
            momenta,
            direction.seed,
            grad,
            lr=self.param_groups[batch.group]["lr"],
            alpha=direction.alpha,
            beta1=direction.beta1,
            beta2=beta2,
            sigma=self.sigma,
            momentum_scale=-1.0 if self.orient_momentum and grad < 0 else 1.0,
            decay=batch.decay,
            displacement=batch.terms.get(direction, 0.0),
            streams=batch.indices,
            rounding=self.rounding,
            out=None if batch.target is batch.source else batch.target,
        )

    def _find_momenta(self) -> None:
        """One fp32 buffer a trainable."""
        self._momenta.clear()
        for i, p in enumerate(self.trainables):
            state = self.state[p]
            if "exp_avg" not in state:
                with torch.inference_mode(False):
                    state["exp_avg"] = torch.zeros_like(p, dtype=torch.float32)
            self._momenta[i] = state["exp_avg"]
