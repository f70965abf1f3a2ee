"""MeZO, the plain zeroth-order SGD."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..ops import perturb_
from ._dense import add_
from ._groups import check_number
from ._steps import Closure
from .base import ZerothOrderOptimizer
from .engine import Batch
from .schedules import QuerySchedule


class MeZO(ZerothOrderOptimizer):
    r"""Zeroth-order SGD with seed replay: trains in inference memory, with forwards only.

    .. math::
        g_q = \frac{\ell(\theta + \epsilon z_q) - \ell(\theta - \epsilon z_q)}{2\epsilon}, \qquad
        \theta \leftarrow (1 - \eta\lambda)\,\theta - \frac{\eta}{Q} \sum_q g_q z_q

    Directions z are regenerated from seeds, never stored. With momentum \mu the sum is replaced by
    the heavy ball m_t = \mu m_{t-1} + (1/Q) \sum g_q z_q.

    Args:
        params: a module, `parameters()`, `named_parameters()` or param groups. Frozen parameters
            are skipped, tied ones moved once.
        lr: learning rate \eta; with `torch.optim.lr_scheduler` as usual. Zeroth-order rates are
            small: 1e-6 or so for full tuning, 1e-4 or so for adapters.
        eps: perturbation scale \epsilon: 1e-3 for full tuning, 1e-2 for LoRA, 1e-1 for prefixes.
        num_queries: Q, directions a step, or a `QuerySchedule`.
        one_sided: (loss(+eps z) - loss) / eps, with one base loss for all queries: Q + 1 forwards
            in place of 2Q.
        momentum: \mu in [0, 1).
        momentum_window: None keeps m in a dense buffer (fp32, as large as the trainables; float64
            for float64). W keeps the last W steps' (seed, g) pairs in its place, and costs W * Q
            normals an element in the update pass.
        weight_decay: decoupled decay \lambda. Give parameters without it their own param group.
        distribution: of z, "gaussian" or "rademacher".
        restore: "auto", "inplace", "exact" or "snapshot": how weights come back from a probe.
        lazy: fuse restore and update into the next step's first pass; needs the module.
        rounding: of updates to bf16 and fp16 weights.
        seed: of the run.
        module: the module that owns the parameters, when `params` is not it.

    `lr`, `eps`, `weight_decay` and `momentum` may differ between param groups.

    Returns (of `step`):
        The mean of all evaluations of the step, each at a perturbed point; with `one_sided`, the
        loss at the weights themselves, before the update.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range; it is named.

    Cost: 2Q forwards and 2Q + 1 passes over the trainables (in place; `lazy=True`: 2Q), no memory.
        `one_sided`: Q + 1 forwards and passes. Dense momentum: one buffer and two more passes.

    Source: Malladi et al. 2023, "Fine-tuning language models with just forward passes"
        (arXiv:2305.17333), Definition 1 and Algorithms 1-2.

    Example:
        >>> model = torch.nn.Linear(4, 1)
        >>> x, y = torch.randn(64, 4), torch.randn(64, 1)
        >>> optimizer = zokern.optim.MeZO(model, lr=1e-2)
        >>> for _ in range(100):
        ...     loss = optimizer.step(lambda: torch.nn.functional.mse_loss(model(x), y))
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 1e-6,
        eps: float = 1e-3,
        *,
        num_queries: int | QuerySchedule = 1,
        one_sided: bool = False,
        momentum: float = 0.0,
        momentum_window: int | None = None,
        weight_decay: float = 0.0,
        distribution: str = "gaussian",
        restore: str = "auto",
        lazy: bool = False,
        rounding: str = "stochastic",
        seed: int = 0,
        module: nn.Module | None = None,
    ) -> None:
        if momentum_window is not None:
            check_number("momentum_window", momentum_window, 1, integer=True)
        self.one_sided = one_sided
        self.momentum_window = momentum_window
        self._history: deque[dict[int, list[float]]] = deque(maxlen=momentum_window)
        super().__init__(
            params,
            {"lr": lr, "weight_decay": weight_decay, "momentum": momentum},
            eps=eps,
            seed=seed,
            lazy=lazy,
            restore=restore,
            rounding=rounding,
            distribution=distribution,
            num_queries=num_queries,
            module=module,
        )

    def step(self, closure: Closure) -> float:  # type: ignore[override]
        """One step. `closure` returns the loss and may be called any number of times."""
        loss, deltas = self.spsa(closure, self.one_sided)
        groups = self.param_groups
        grads = {
            seed: [delta / (len(deltas) * group["eps"]) for group in groups] for seed, delta in deltas.items()
        }
        decay = [1.0 - group["lr"] * group["weight_decay"] for group in groups]
        if not any(group["momentum"] for group in groups):
            past = [grads]
        elif self.momentum_window is not None:
            past = [grads, *self._history][: self.momentum_window]
        else:
            self._heavy_ball(grads, decay)
            return loss
        terms = {
            seed: [-p["lr"] * p["momentum"] ** age * g for p, g in zip(groups, grad)]
            for age, step in enumerate(past)
            for seed, grad in step.items()
        }
        if self.commit(terms, decay) and self.momentum_window is not None:
            self._history.appendleft(grads)
        return loss

    def _heavy_ball(self, grads: dict[int, list[float]], decay: list[float]) -> None:
        """The dense variant: m in one pass, then the weights."""
        if self.skips(*decay, *(g for grad in grads.values() for g in grad)):
            return
        seeds = list(grads)

        def apply(batch: Batch) -> None:
            group = self.param_groups[batch.group]
            params = [self.trainables[i] for i in batch.indices]
            momenta = []
            for p in params:
                if "momentum_buffer" not in self.state[p]:
                    dtype = torch.float64 if p.dtype == torch.float64 else torch.float32
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p, dtype=dtype)
                momenta.append(self.state[p]["momentum_buffer"])
            perturb_(
                momenta,
                seeds,
                [grads[seed][batch.group] for seed in seeds],
                decay=group["momentum"],
                streams=batch.indices,
                distribution=self.distribution,
            )
            rest = batch.then(decay[batch.group])
            add_(rest, momenta, -group["lr"], self._apply, self.rounding, seeds[0])

        self.update(apply)

    def _method_state(self) -> dict[str, Any]:
        return {"history": list(self._history)}

    def _load_method_state(self, state: dict[str, Any]) -> None:
        self._history = deque(state["history"], maxlen=self.momentum_window)
