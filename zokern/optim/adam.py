"""Adaptive-moment methods on the zeroth-order estimate: Adam, AdamW, AdaMax, AdaMM."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..ops import adam_
from ._groups import check_number
from ._steps import Closure
from .base import ZerothOrderOptimizer
from .engine import Batch
from .schedules import QuerySchedule


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
        params: a module, `parameters()`, `named_parameters()` or param groups.
        lr: learning rate \eta.
        eps: perturbation scale \epsilon. (The denominator's \varepsilon is `adam_eps`.)
        betas: decay rates of m and v, in [0, 1).
        adam_eps: \varepsilon, > 0.
        weight_decay: \lambda, through the gradient, as in `torch.optim.Adam`.
        num_queries: Q, directions a step, or a `QuerySchedule`.
        one_sided, distribution, restore, lazy, rounding, seed, module: see `MeZO`.

    `lr`, `eps`, `betas`, `adam_eps` and `weight_decay` may differ between param groups. m and v are fp32
    whatever the dtype of the weights. A step that is skipped leaves them as they were and does not
    count for t.

    Returns (of `step`): as `MeZO`.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range; it is named.

    Cost: 2Q forwards, 2Q probe passes and the update pass, which reads and writes weights, m and v once
        (24 bytes an element in fp32). Two fp32 buffers as large as the trainables. `lazy` saves nothing:
        the update is always done at once.

    Source: Kingma and Ba 2015 (arXiv:1412.6980), Algorithm 1; on the zeroth-order estimate, Malladi et
        al. 2023 (arXiv:2305.17333), and table 3 (column g) of Jiang et al. 2024 (arXiv:2312.15184).

    Example:
        >>> optimizer = zokern.optim.ZOAdam(model, lr=1e-4)
        >>> loss = optimizer.step(lambda: loss_fn(model(x), y))
    """

    variant = "adam"
    decoupled = False
    corrects_bias = True

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 1e-5,
        eps: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-8,
        weight_decay: float = 0.0,
        num_queries: int | QuerySchedule = 1,
        one_sided: bool = False,
        distribution: str = "gaussian",
        restore: str = "auto",
        lazy: bool = False,
        rounding: str = "stochastic",
        seed: int = 0,
        module: nn.Module | None = None,
    ) -> None:
        self.one_sided = one_sided
        super().__init__(
            params,
            {"lr": lr, "betas": betas, "adam_eps": adam_eps, "weight_decay": weight_decay},
            eps=eps,
            seed=seed,
            lazy=lazy,
            restore=restore,
            rounding=rounding,
            distribution=distribution,
            num_queries=num_queries,
            module=module,
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; its moments and its count of steps start anew."""
        options = {**self.defaults, **param_group}
        betas = tuple(options["betas"])
        if len(betas) != 2:
            raise ValueError(f"betas must be two numbers, got {betas!r}")
        for k, beta in enumerate(betas):
            check_number(f"betas[{k}]", beta, 0.0, high=1.0)
        check_number("adam_eps", options["adam_eps"], 0.0, above=True)
        super().add_param_group(param_group)

    def step(self, closure: Closure) -> float:  # type: ignore[override]
        """One step. `closure` returns the loss and may be called any number of times."""
        loss, deltas = self.spsa(closure, self.one_sided)
        grads = {
            seed: [delta / (len(deltas) * group["eps"]) for group in self.param_groups]
            for seed, delta in deltas.items()
        }
        if not self.skips(*(g for values in grads.values() for g in values)):
            self.update(lambda batch: self._descend(batch, grads))
        return loss

    def _descend(self, batch: Batch, grads: dict[int, list[float]]) -> None:
        """The update pass: from where the last probe left the weights, to the updated ones."""
        group = self.param_groups[batch.group]
        states = [self._state_of(self.trainables[i]) for i in batch.indices]
        for state in states:
            state["step"] += 1
        decoupled = group["lr"] * group["weight_decay"] if self.decoupled else 0.0
        back = batch.then(1.0 - decoupled)
        # this step's seeds first: they key stochastic rounding
        seeds = list(dict.fromkeys([*grads, *back.terms]))
        tops = [state["max_exp_avg_sq"] for state in states] if self.variant == "adamm" else None
        adam_(
            back.source,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            seeds,  # type: ignore[arg-type]
            [grads[seed][batch.group] if seed in grads else 0.0 for seed in seeds],
            lr=group["lr"],
            betas=group["betas"],
            eps=group["adam_eps"],
            step=states[0]["step"] if self.corrects_bias else None,
            variant=self.variant,
            max_exp_avg_sqs=tops,
            l2=0.0 if self.decoupled else group["weight_decay"],
            decay=back.decay,
            displacements=[back.terms.get(seed, 0.0) for seed in seeds],
            streams=back.indices,
            distribution=self.distribution,
            rounding=self.rounding,
            out=None if back.target is back.source else back.target,
        )

    def _state_of(self, p: Tensor) -> dict[str, Any]:
        state = self.state[p]
        if not state:
            names = ["exp_avg", "exp_avg_sq"]
            if self.variant == "adamm":
                names.append("max_exp_avg_sq")
            with torch.inference_mode(False):
                state.update({name: torch.zeros_like(p, dtype=torch.float32) for name in names})
            state["step"] = 0
        return state


class ZOAdamW(ZOAdam):
    r"""`ZOAdam` with decoupled weight decay: \theta \leftarrow (1 - \eta\lambda)\,\theta before the step.

    All arguments as in `ZOAdam`, but for `weight_decay`, 0.01 as in `torch.optim.AdamW`.

    Source: Loshchilov and Hutter 2019 (arXiv:1711.05101), Algorithm 2.
    """

    decoupled = True

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 1e-5,
        eps: float = 1e-3,
        *,
        weight_decay: float = 1e-2,
        **options: Any,
    ) -> None:
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

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 1e-5,
        eps: float = 1e-3,
        *,
        bias_correction: bool = False,
        **options: Any,
    ) -> None:
        self.corrects_bias = bias_correction
        super().__init__(params, lr, eps, **options)
