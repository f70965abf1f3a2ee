"""MeZO, the plain zeroth-order SGD."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from typing_extensions import Unpack

from ..call.checks import check_flag, check_integer
from .base import ZerothOrderOptimizer
from .dense import add_, moving_part
from .moves import Pass, seed_of, uninterrupted
from .options import Common, Params
from .perturbation import at_least_fp32
from .record import Closure, Grads


class MeZO(ZerothOrderOptimizer):
    r"""Zeroth-order SGD with seed replay: trains in inference memory, with forwards only.

    .. math::
        g_q = \frac{\ell(\theta + \epsilon z_q) - \ell(\theta - \epsilon z_q)}{2\epsilon}, \qquad
        \theta \leftarrow (1 - \eta\lambda)\,\theta - \frac{\eta}{Q} \sum_q g_q z_q

    Directions z are regenerated from seeds, never stored. With momentum \mu the sum is replaced by
    the heavy ball m_t = \mu m_{t-1} + (1/Q) \sum g_q z_q.

    Args:
        params: a module, `parameters()`, `named_parameters()` or param groups.
        lr: learning rate \eta; with `torch.optim.lr_scheduler` as usual. Zeroth-order rates are
            small: 1e-6 or so for full tuning, 1e-4 or so for adapters.
        eps: perturbation scale \epsilon: 1e-3 for full tuning, 1e-2 for LoRA, 1e-1 for prefixes.
        one_sided: (loss(+eps z) - loss) / eps, with one base loss for all queries: Q + 1 forwards
            in place of 2Q.
        momentum: \mu in [0, 1).
        momentum_window: None keeps m in a dense buffer (fp32, as large as the trainables; float64
            for float64). W keeps the last W steps' (seed, g) pairs in its place, and costs W * Q
            normals an element in the update pass.
        weight_decay: decoupled decay \lambda, of weights that move. Give parameters without it their own
            param group.
        common: keywords of every method, Q = `num_queries` among them: see `ZerothOrderOptimizer`.

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
        self, params: Params, lr: float = 1e-6, eps: float = 1e-3, *,
        one_sided: bool = False, momentum: float = 0.0, momentum_window: int | None = None,
        weight_decay: float = 0.0, **common: Unpack[Common],
    ) -> None:  # fmt: skip
        if momentum_window is not None:
            momentum_window = check_integer("momentum_window", momentum_window, 1)
        self.one_sided = check_flag("one_sided", one_sided)
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
        with uninterrupted():
            if self.commit(terms, decay) and self.momentum_window is not None:
                self._history.appendleft(estimate.grads)
        return estimate.loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, which past estimates do not move."""
        super().add_param_group(param_group)
        for grads in self._history:
            for values in grads.values():
                values.append(0.0)

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
        """The update pass, after the momentum's own."""
        moving = moving_part(work, self.directions, grads)
        if moving is None:
            return
        group = self.param_groups[work.group]
        params = [self.trainables[i] for i in moving.indices]
        momenta = [self.buffer(p, "momentum_buffer", at_least_fp32(p.dtype)) for p in params]
        along = {direction: values[work.group] for direction, values in grads.items()}
        self.directions.apply(Pass(moving.indices, work.group, momenta, momenta, group["momentum"], along))
        masks = self.directions.masks
        dense = [m * masks[i] if i in masks else m for i, m in zip(moving.indices, momenta)]
        seed = seed_of(next(iter(grads)))
        add_(moving.then(decay), dense, -group["lr"], self.directions, self.rounding, seed)

    def _method_state(self) -> dict[str, Any]:
        plain = self.directions.to_plain
        return {"history": [{plain(d): values for d, values in grads.items()} for grads in self._history]}

    def _load_method_state(self, state: Mapping[str, Any]) -> None:
        known = self.directions.from_plain
        history = [{known(d): values for d, values in grads.items()} for grads in state["history"]]
        self._history = deque(history, maxlen=self.momentum_window)
