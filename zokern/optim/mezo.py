"""MeZO, the plain zeroth-order SGD."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..call.checks import check_number
from .base import ZerothOrderOptimizer
from .dense import add_, split_moving
from .moves import Pass, seed_of
from .record import Closure, Grads

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .options import Common


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
        one_sided: (loss(+eps z) - loss) / eps, with one base loss for all queries: Q + 1 forwards
            in place of 2Q.
        num_queries: Q, directions a step, or a `QuerySchedule`.
        momentum: \mu in [0, 1).
        momentum_window: None keeps m in a dense buffer (fp32, as large as the trainables; float64
            for float64). W keeps the last W steps' (seed, g) pairs in its place, and costs W * Q
            normals an element in the update pass.
        weight_decay: decoupled decay \lambda. Give parameters without it their own param group.
        perturbation: what z is: `FullNoise()`, `SmallWeights`, `GivenMasks`, `Blocks`. Weights that do
            not move do not decay either.
        distribution: of z, "gaussian" or "rademacher".
        evaluation: "loop", or "batched": all points of a step in one forward.
        max_parallel: most perturbed copies in one forward; default all.
        restore: "auto", "inplace", "exact" or "snapshot": how weights come back from a probe.
        lazy: fuse restore and update into the next step's first pass; needs the module.
        rounding: of updates to bf16 and fp16 weights.
        seed: of the run.
        module: the module that owns the parameters, when `params` is not it.

    `ZerothOrderOptimizer` says more of those from `perturbation` on, which every method here takes.

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
        one_sided: bool = False,
        momentum: float = 0.0,
        momentum_window: int | None = None,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        if momentum_window is not None:
            check_number("momentum_window", momentum_window, 1, integer=True)
        self.one_sided = one_sided
        self.momentum_window = momentum_window
        self._history: deque[Grads] = deque(maxlen=momentum_window)
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, defaults, eps=eps, **common)

    def step(self, closure: Closure) -> float:  # type: ignore[override]
        """One step. `closure` returns the loss and may be called any number of times."""
        (estimate,) = self.spsa(closure, one_sided=self.one_sided)
        groups = self.param_groups
        decay = [1.0 - group["lr"] * group["weight_decay"] for group in groups]
        if self._has_buffer:
            self._heavy_ball(estimate.grads, decay)
            return estimate.loss
        past = [estimate.grads]
        if self.momentum_window is not None:
            past = [*past, *self._history][: self.momentum_window]
        terms = {
            along: [-p["lr"] * p["momentum"] ** age * g for p, g in zip(groups, values)]
            for age, grads in enumerate(past)
            for along, values in grads.items()
        }
        if self.commit(terms, decay) and self.momentum_window is not None:
            self._history.appendleft(estimate.grads)
        return estimate.loss

    @property
    def keeps_masks(self) -> bool:
        """The dense momentum is updated by passes over its own values."""
        return self._has_buffer

    @property
    def _has_buffer(self) -> bool:
        """Whether the momentum is a dense buffer."""
        return self.momentum_window is None and any(group["momentum"] for group in self.param_groups)

    def _heavy_ball(self, grads: Grads, decay: list[float]) -> None:
        """The dense variant: m in one pass, then the weights."""
        if not self.skips(*decay, *(g for values in grads.values() for g in values)):
            self.update(lambda work: self._descend(work, grads, decay[work.group]))

    def _descend(self, work: Pass, grads: Grads, decay: float) -> None:
        moving, resting = split_moving(work, self.directions, grads)
        if resting is not None:
            self.directions.apply(resting)
        if moving is None:
            return
        group = self.param_groups[work.group]
        momenta = [self._momentum_of(self.trainables[i]) for i in moving.indices]
        along = {direction: values[work.group] for direction, values in grads.items()}
        self.directions.apply(Pass(moving.indices, work.group, momenta, momenta, group["momentum"], along))
        masks = self.directions.masks
        dense = [m * masks[i] if i in masks else m for i, m in zip(moving.indices, momenta)]
        seed = seed_of(next(iter(grads)))
        add_(moving.then(decay), dense, -group["lr"], self.directions, self.rounding, seed)

    def _momentum_of(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum_buffer" not in state:
            dtype = torch.float64 if p.dtype == torch.float64 else torch.float32
            state["momentum_buffer"] = torch.zeros_like(p, dtype=dtype)
        return state["momentum_buffer"]

    def _method_state(self) -> dict[str, Any]:
        plain = self.directions.to_plain
        return {"history": [{plain(d): values for d, values in grads.items()} for grads in self._history]}

    def _load_method_state(self, state: Mapping[str, Any]) -> None:
        known = self.directions.from_plain
        history = [{known(d): values for d, values in grads.items()} for grads in state["history"]]
        self._history = deque(history, maxlen=self.momentum_window)
