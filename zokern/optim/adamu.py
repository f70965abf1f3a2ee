"""ZO-AdaMU: momentum and uncertainty in the perturbation itself."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from typing_extensions import Unpack

from ..call.checks import check_flag, check_integer, check_number
from ..ops import adamu_update_
from .base import ZerothOrderOptimizer
from .dense import moving_part
from .moves import Direction, Pass
from .options import Common, Params
from .perturb_blocks import BlockDirection, BlockDirections, Blocks
from .perturb_momentum import AdaMUSchedule, Momentum, MomentumDirection, MomentumDirections, Schedule
from .perturbation import Perturbation
from .record import Closure, Grads


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
        params, lr, eps, weight_decay: as in `MeZO`.
        schedule: \alpha, \beta_1, \beta_2 of the step: an `AdaMUSchedule`, or the number of steps of the
            run, which stands for one with the published ends. Any callable of t = 1, 2, ... that
            returns the three will do.
        sigma: \sigma, > 0.
        orient_momentum: store sign(g) m_t, as the authors' code does, in place of m_t, as the paper
            prints it.
        perturbation: `Blocks` moves some of the tensors a step, m included; default all. Its noise is
            the momentum, so that no other kind goes with this method.
        num_queries: Q, directions a step, or a `QuerySchedule`. All start from the same m; updates and
            the stored m are their means. (The paper has Q = 1.)
        common: as in `MeZO`, without `distribution`.

    `lr`, `eps` and `weight_decay` may differ between param groups. m is fp32 whatever the dtype of the
    weights. Returns and errors: as `MeZO`.

    Cost: 2 forwards, 2 probe passes (12 bytes and two normals an element in fp32) and the update pass
        (16 bytes). One fp32 buffer as large as the trainables. Q > 1 takes an update pass a query and
        transient copies of m, one tensor at a time. `lazy` saves nothing.

    Source: Jiang et al. 2024 (arXiv:2312.15184), Algorithm 1; \sqrt\alpha is a standard deviation.

    Example:
        >>> optimizer = zokern.optim.ZOAdaMU(model, lr=1e-5, schedule=10_000)
        >>> loss = optimizer.step(lambda: loss_fn(model(x), y))
    """

    writes_momentum = True

    def __init__(
        self, params: Params, lr: float = 1e-6, eps: float = 1e-3, *,
        schedule: Schedule | int, sigma: float = 1e-8, orient_momentum: bool = False,
        weight_decay: float = 0.0, **common: Unpack[Common],
    ) -> None:  # fmt: skip
        self.schedule = (
            schedule if callable(schedule) else AdaMUSchedule(check_integer("schedule", schedule, 1))
        )
        self.sigma = check_number("sigma", sigma, 0.0, above=True)
        self.orient_momentum = check_flag("orient_momentum", orient_momentum)
        common["perturbation"] = self._around_momentum(common.get("perturbation"))
        if "distribution" in common:
            raise TypeError(f"distribution={common['distribution']!r}: ZOAdaMU draws Gaussian noise alone")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay}, eps=eps, **common)

    def _around_momentum(self, asked: Perturbation | None) -> Perturbation:
        momentum = Momentum(self.schedule)
        if asked is None:
            return momentum
        if isinstance(asked, Blocks) and asked.of is None:
            return replace(asked, of=momentum)
        raise TypeError(
            f"perturbation must be Blocks (of nothing else) or None, for ZOAdaMU perturbs along its "
            f"momentum; got {asked!r}"
        )

    @property
    def _around(self) -> MomentumDirections:
        directions = self.directions
        if isinstance(directions, BlockDirections):
            directions = directions.of
        assert isinstance(directions, MomentumDirections)  # by the constructor
        return directions

    def step(self, closure: Closure) -> float:  # type: ignore[override]
        """One step. `closure` returns the loss and may be called any number of times."""
        (estimate,) = self.spsa(closure)
        # both g and lr * g are numbers of the update pass
        rates = [rate for group in self.param_groups for rate in (1.0, group["lr"])]
        if not self.skips(*(g * rate for g in estimate.numbers for rate in rates)):
            self.update(lambda work: self._descend(work, estimate.grads))
        return estimate.loss

    def _descend(self, work: Pass, grads: Grads) -> None:
        """The update pass: from where the last probe left the weights, to the updated ones."""
        moving = moving_part(work, self.directions, grads)
        if moving is None:
            return
        group, momenta = self.param_groups[work.group], self._around.momenta
        moving = moving.then(1.0 - group["lr"] * group["weight_decay"])
        if len(grads) == 1:
            for direction, values in grads.items():
                self._add(moving, direction, values[work.group], [momenta[i] for i in moving.indices])
            return
        # first the direction that the weights are displaced along: its pass also brings them back
        order = sorted(grads, key=lambda direction: not moving.terms.get(direction))
        for n, i in enumerate(moving.indices):
            begun = momenta[i].clone()
            momenta[i].zero_()
            at = moving.part([n])
            for direction in order:
                drawn = begun.clone()
                self._add(at, direction, grads[direction][work.group], [drawn])
                momenta[i].add_(drawn, alpha=1.0 / len(order))
                at = replace(at, source=at.target, decay=1.0, terms={})

    def _add(self, work: Pass, direction: Direction, grad: float, momenta: list[Tensor]) -> None:
        drawn = direction.along if isinstance(direction, BlockDirection) else direction
        assert isinstance(drawn, MomentumDirection)  # by `directions`
        adamu_update_(
            work.source,
            momenta,
            drawn.seed,
            grad,
            lr=self.param_groups[work.group]["lr"],
            alpha=drawn.alpha,
            beta1=drawn.beta1,
            beta2=self._around.beta2,
            sigma=self.sigma,
            momentum_scale=-1.0 if self.orient_momentum and grad < 0 else 1.0,
            decay=work.decay,
            displacement=work.terms.get(direction, 0.0),
            streams=work.indices,
            rounding=self.rounding,
            out=work.out,
        )

    def begin(self) -> None:
        """Finds the momenta, one fp32 buffer a trainable, and the schedule's values."""
        momenta = self._around.momenta
        momenta.clear()
        momenta.update((i, self.buffer(p, "exp_avg")) for i, p in enumerate(self.trainables))
        super().begin()
