"""Adaptive-moment methods on the zeroth-order estimate: Adam, AdamW, AdaMax, AdaMM."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..call.checks import check_flag
from ..call.rules import check_betas
from ..ops import adam_
from .base import ZerothOrderOptimizer
from .dense import add_, moving_part
from .moves import Direction, Pass, seed_of
from .options import Common, Params
from .perturbation import dense_estimate
from .record import Closure, Grads


class ZOAdam(ZerothOrderOptimizer):
    r"""Adam (MeZO-Adam) with the estimate g z in place of the gradient.

    .. math::
        g = \frac{1}{Q} \sum_q \frac{\ell(\theta + \epsilon z_q) - \ell(\theta - \epsilon z_q)}{2\epsilon}
            z_q + \lambda\theta, \quad
        m \leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad
        \theta \leftarrow \theta - \eta \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \varepsilon}

    Weights come back from the last probe, m, v and the weights are updated in one pass that regenerates
    z in registers: the estimate is never stored.

    Args:
        params, lr, eps, one_sided, common: as in `MeZO`; \epsilon is `eps`.
        betas: decay rates of m and v, in [0, 1).
        adam_eps: \varepsilon of the denominator, > 0.
        weight_decay: \lambda, through the gradient, as in `torch.optim.Adam`.

    `lr`, `eps`, `betas`, `adam_eps` and `weight_decay` may differ between param groups. m and v are fp32
    whatever the dtype of the weights. A step that is skipped leaves them as they were and does not
    count for t. Weights that a step does not move (`Blocks`, `SmallWeights`) keep m and v as well, and a
    tensor none of which moves does not count the step for t.

    Returns and errors: as `MeZO`.

    Cost: 2Q forwards, 2Q probe passes and the update pass, which reads and writes weights, m and v once
        (24 bytes an element in fp32). Two fp32 buffers as large as the trainables. `lazy` saves nothing:
        the update is always done at once. With masks the update is made tensor by tensor in PyTorch, with
        transient copies of the largest one.

    Source: Kingma and Ba 2015 (arXiv:1412.6980), Algorithm 1; on the zeroth-order estimate, Malladi et
        al. 2023 (arXiv:2305.17333), and table 3 (column g) of Jiang et al. 2024 (arXiv:2312.15184).

    Example:
        >>> optimizer = zokern.optim.ZOAdam(model, lr=1e-4)
        >>> loss = optimizer.step(lambda: loss_fn(model(x), y))
    """

    variant = "adam"
    moments: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
    decoupled = False
    corrects_bias = True

    def __init__(
        self, params: Params, lr: float = 1e-5, eps: float = 1e-3, *,
        betas: tuple[float, float] = (0.9, 0.999), adam_eps: float = 1e-8, weight_decay: float = 0.0,
        one_sided: bool = False, **common: Unpack[Common],
    ) -> None:  # fmt: skip
        self.one_sided = check_flag("one_sided", one_sided)
        defaults = {"lr": lr, "betas": betas, "adam_eps": adam_eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, eps=eps, **common)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; its moments and its count of steps start anew."""
        param_group["betas"] = check_betas({**self.defaults, **param_group}["betas"])
        super().add_param_group(param_group)

    def step(self, closure: Closure) -> float:  # type: ignore[override]
        """One step. `closure` returns the loss and may be called any number of times."""
        (estimate,) = self.spsa(closure, one_sided=self.one_sided)
        if not self.skips(*estimate.numbers):
            self.update(lambda work: self._descend(work, estimate.grads))
        return estimate.loss

    @property
    def keeps_masks(self) -> bool:
        """The fused pass takes whole tensors; with masks the rule works on dense estimates."""
        return not self.directions.whole

    def _descend(self, work: Pass, grads: Grads) -> None:
        """The update pass: from where the last probe left the weights, to the updated ones."""
        moving = moving_part(work, self.directions, grads)
        if moving is None:
            return
        if not self.directions.whole:
            for n in range(len(moving.indices)):
                self._descend_dense(moving.part([n]), grads)
            return
        # this step's directions first: they key stochastic rounding
        named = dict.fromkeys([*grads, *moving.terms])
        everything, partial = tuple(named), self.directions.partial
        kinds: list[tuple[int, tuple[Direction, ...]]] = []
        for i in moving.indices:
            state = self._state_of(self.trainables[i])
            state["step"] += 1
            own = tuple(d for d in named if self.directions.moves(d, i)) if partial else everything
            kinds.append((state["step"], own))
        for (step, directions), part in moving.split(kinds).items():
            self._descend_fused(part, grads, directions, step)

    def _descend_fused(self, work: Pass, grads: Grads, directions: tuple[Direction, ...], step: int) -> None:
        """Tensors that take the same directions, at the same count of steps: one pass."""
        group = self.param_groups[work.group]
        states = [self._state_of(self.trainables[i]) for i in work.indices]
        back = work.then(1.0 - self._decoupled_decay(group))
        tops = [state["max_exp_avg_sq"] for state in states] if self.variant == "adamm" else None
        adam_(
            back.source,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [seed_of(direction) for direction in directions],
            [grads[d][work.group] if d in grads else 0.0 for d in directions],
            lr=group["lr"],
            betas=group["betas"],
            eps=group["adam_eps"],
            step=step if self.corrects_bias else None,
            variant=self.variant,
            max_exp_avg_sqs=tops,
            l2=0.0 if self.decoupled else group["weight_decay"],
            decay=back.decay,
            displacements=[back.terms.get(direction, 0.0) for direction in directions],
            streams=back.indices,
            distribution=self.distribution,
            rounding=self.rounding,
            out=back.out,
        )

    def _descend_dense(self, work: Pass, grads: Grads) -> None:
        """One tensor, some of whose elements move: the same rule on a dense estimate, in PyTorch."""
        (i,), group = work.indices, self.param_groups[work.group]
        p, state = self.trainables[i], self._state_of(self.trainables[i])
        state["step"] += 1
        grad = dense_estimate(
            self.directions, i, p, work.group, {d: values[work.group] for d, values in grads.items()}
        )
        if not self.decoupled and group["weight_decay"]:
            weights = [work.source[0].to(grad.dtype, copy=True)]
            self.directions.apply(replace(work, source=weights, target=weights, rounding="nearest"))
            grad.add_(weights[0], alpha=group["weight_decay"])
        moved = self._moments(state, grad, group)
        mask = self.directions.masks.get(i)
        for name, value in moved.items():
            state[name].copy_(value if mask is None else torch.where(mask, value, state[name]))
        update = self._direction_of(moved, group, state["step"])
        if mask is not None:
            update.mul_(mask)
        seed = seed_of(next(iter(grads)))
        back = work.then(1.0 - self._decoupled_decay(group))
        add_(back, [update], -group["lr"], self.directions, self.rounding, seed)

    def _moments(self, state: dict[str, Any], grad: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        """The moments after this step's estimate."""
        beta1, beta2 = group["betas"]
        moved = {"exp_avg": state["exp_avg"].to(grad.dtype).lerp(grad, 1.0 - beta1)}
        if self.variant == "adamax":
            norm = grad.abs().add_(group["adam_eps"])
            moved["exp_avg_sq"] = torch.maximum(beta2 * state["exp_avg_sq"].to(grad.dtype), norm)
            return moved
        moved["exp_avg_sq"] = state["exp_avg_sq"].to(grad.dtype).lerp(grad.square(), 1.0 - beta2)
        if self.variant == "adamm":
            top = state["max_exp_avg_sq"].to(grad.dtype)
            moved["max_exp_avg_sq"] = torch.maximum(top, moved["exp_avg_sq"])
        return moved

    def _direction_of(self, moments: dict[str, Tensor], group: dict[str, Any], step: int) -> Tensor:
        """What the weights descend along."""
        beta1, beta2 = group["betas"]
        first, second = (1.0 - beta1**step, 1.0 - beta2**step) if self.corrects_bias else (1.0, 1.0)
        if self.variant == "adamax":
            return moments["exp_avg"] / moments["exp_avg_sq"] / first
        square = moments["max_exp_avg_sq" if self.variant == "adamm" else "exp_avg_sq"]
        return moments["exp_avg"] / first / (square.sqrt() / math.sqrt(second) + group["adam_eps"])

    def _decoupled_decay(self, group: dict[str, Any]) -> float:
        return group["lr"] * group["weight_decay"] if self.decoupled else 0.0

    def _state_of(self, p: Tensor) -> dict[str, Any]:
        state = self.state[p]
        if not state:
            for name in self.moments:
                self.buffer(p, name)
            state["step"] = 0
        return state


class ZOAdamW(ZOAdam):
    r"""`ZOAdam` with decoupled weight decay: \theta \leftarrow (1 - \eta\lambda)\,\theta before the step.

    All arguments as in `ZOAdam`, but for `weight_decay`, 0.01 as in `torch.optim.AdamW`.

    Source: Loshchilov and Hutter 2019 (arXiv:1711.05101), Algorithm 2.
    """

    decoupled = True

    def __init__(
        self, params: Params, lr: float = 1e-5, eps: float = 1e-3, *,
        weight_decay: float = 1e-2, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, eps, weight_decay=weight_decay, **options)


class ZOAdaMax(ZOAdam):
    r"""AdaMax: `ZOAdam` with the infinity norm of past estimates as the denominator.

    .. math:: u \leftarrow \max(\beta_2 u, |g| + \varepsilon), \qquad
              \theta \leftarrow \theta - \frac{\eta}{1 - \beta_1^t} \frac{m}{u}

    All arguments as in `ZOAdam`. u is kept as `exp_avg_sq`.

    Source: Kingma and Ba 2015 (arXiv:1412.6980), Algorithm 2, as in `torch.optim.Adamax`.
    """

    variant = "adamax"


class ZOAdaMM(ZOAdam):
    r"""ZO-AdaMM: AMSGrad on the zeroth-order estimate, with the running maximum of v.

    .. math:: \hat v \leftarrow \max(\hat v, v), \qquad
              \theta \leftarrow \theta - \eta \frac{m}{\sqrt{\hat v} + \varepsilon}

    All arguments as in `ZOAdam`, and:

    Args:
        bias_correction: divide m and \hat v by 1 - \beta^t, as `torch.optim.Adam(amsgrad=True)` does.
            The paper has no such correction, and so none is the default.

    Cost: as `ZOAdam`, with a third buffer: the update pass moves 32 bytes an element in fp32.

    Source: Chen et al. 2019 (arXiv:1910.06513), Algorithm 1, without constraints.
    """

    variant = "adamm"
    moments = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def __init__(
        self, params: Params, lr: float = 1e-5, eps: float = 1e-3, *,
        bias_correction: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        self.corrects_bias = check_flag("bias_correction", bias_correction)
        super().__init__(params, lr, eps, **options)
