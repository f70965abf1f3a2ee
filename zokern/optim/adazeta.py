"""AdaZeta: zeroth-order SGD with a growing number of queries, evaluated in a loop or all at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ..nn.queries import BatchedCopies, Point, Trainable
from ._groups import check_choice, check_number
from ._steps import Closure
from .base import Coefficient, ZerothOrderOptimizer
from .restore_exact import SMALL
from .schedules import QuerySchedule


class AdaZeta(ZerothOrderOptimizer):
    r"""Averages Q_k two-sided estimates a step, Q_k growing with the epoch; made for TT adapters.

    .. math::
        \theta \leftarrow (1 - \eta\lambda)\,\theta - \frac{\eta}{Q_k} \sum_{q=1}^{Q_k}
        \frac{\ell(\theta + \epsilon z_q) - \ell(\theta - \epsilon z_q)}{2\epsilon}\, z_q

    The 2Q evaluations of a step do not depend on each other. `queries="loop"` runs one forward for each.
    `queries="parallel"` makes all 2Q perturbed copies of the trainables, which are small, and evaluates
    them in one forward of the frozen model over the batch repeated 2Q times: row block p goes through
    copy p. Losses agree with the loop's to rounding, and equal losses give equal weights, bit for bit.

    In both, `step(closure)` takes the same closure. In parallel it must

    * call the module that the optimizer was given (as often as it likes: micro-batches), with inputs
      whose tensors have the batch as first dimension; they are repeated along it;
    * compute the loss from outputs with the batch first: `cross_entropy(model(x).logits, y)`, not a
      loss that the model averages itself;
    * call the model with the same inputs each time, since it is run once per copy, the first time
      with the forward of all copies and then with that copy's rows of the outputs.

    Whatever breaks this raises. Memory: the activations of 2Q batches; `max_parallel` bounds it.

    Args:
        params: a module (needed for "parallel"), `parameters()`, `named_parameters()` or groups.
        lr: learning rate \eta: 1e-4 and 5e-5 are the published values.
        eps: perturbation scale \epsilon.
        schedule: Q by epoch, or a fixed number.
        steps_per_epoch: ceil(samples / batch size), for the schedule; without it, call
            `set_epoch(epoch)`.
        queries: "loop" or "parallel". In parallel, trainables may be those of TT layers and adapters
            (their noise is made inside the layer, no copy is stored) and of `nn.Linear` (LoRA, heads).
        max_parallel: most copies in one forward; default 2Q.
        weight_decay: decoupled decay \lambda.
        distribution: of z, "gaussian" or "rademacher".
        restore: see `ZerothOrderOptimizer`. "auto" is "snapshot" where the trainables are at most 1/16
            of the module, and in parallel, where nothing is displaced and so nothing copied.
        lazy, rounding, seed, module: see `ZerothOrderOptimizer`. In parallel `lazy` has no effect.

    `lr`, `eps` and `weight_decay` may differ between param groups.

    Returns (of `step`):
        The mean of the 2Q losses, each at a perturbed point.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range; it is named.
        RuntimeError: in a parallel step, the closure does not keep to the above.

    Cost: 2Q forwards, or one of 2Q batches; one pass over the trainables a move.

    Source: Yang et al. 2024, "AdaZeta" (arXiv:2406.18060), algorithm 1; the loop of queries is named
        there as the method's limitation.

    Example:
        >>> zokern.nn.add_tt_adapters(model, bottleneck=64, rank=5)
        >>> optimizer = AdaZeta(model, lr=1e-4, steps_per_epoch=63, queries="parallel")
        >>> for x, y in batches:
        ...     loss = optimizer.step(lambda: cross_entropy(model(x).logits[:, -1], y))
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 1e-4,
        eps: float = 1e-3,
        *,
        schedule: QuerySchedule | int = QuerySchedule(),  # noqa: B008  (frozen)
        steps_per_epoch: int | None = None,
        queries: str = "loop",
        max_parallel: int | None = None,
        weight_decay: float = 0.0,
        distribution: str = "gaussian",
        restore: str = "auto",
        lazy: bool = False,
        rounding: str = "stochastic",
        seed: int = 0,
        module: nn.Module | None = None,
    ) -> None:
        check_choice("queries", queries, ("loop", "parallel"))
        if max_parallel is not None:
            check_number("max_parallel", max_parallel, 1, integer=True)
        if steps_per_epoch is not None:
            check_number("steps_per_epoch", steps_per_epoch, 1, integer=True)
            if isinstance(schedule, QuerySchedule):
                schedule = dataclasses.replace(schedule, steps_per_epoch=steps_per_epoch)
        self.parallel = queries == "parallel"
        self.max_parallel = max_parallel
        self._copies: BatchedCopies | None = None
        root = params if isinstance(params, nn.Module) else module
        if self.parallel:
            if root is None:
                raise ValueError(
                    "queries='parallel' needs the module, whose forward it batches: pass the model itself "
                    "in place of its parameters, or module=model beside param groups"
                )
            if restore not in ("auto", "snapshot"):
                raise ValueError(
                    f"restore must be 'auto' or 'snapshot' with queries='parallel', which displaces no "
                    f"weight, got {restore!r}"
                )
            restore, lazy = "snapshot", False  # no displacement, so nothing to fuse with
        elif restore == "auto" and root is not None and _is_small(root):
            restore = "snapshot"
        super().__init__(
            params,
            {"lr": lr, "weight_decay": weight_decay},
            eps=eps,
            seed=seed,
            lazy=lazy,
            restore=restore,
            rounding=rounding,
            distribution=distribution,
            num_queries=schedule,
            module=module,
        )
        if self.parallel:
            self._batched()  # says now what cannot have copies

    def step(self, closure: Closure) -> float:  # type: ignore[override]
        """One step; see the class for what `closure` may do."""
        if self.parallel and self._replay is None:
            groups = self.param_groups
            points = [
                Point(self.next_seed(query), tuple(sign * group["eps"] for group in groups))
                for query in range(self.queries())
                for sign in (1.0, -1.0)
            ]
            self.engine.land()  # copies are made from the weights in memory
            self._copies = self._batched()
            try:
                with self._copies.at(points):
                    loss, deltas = self.spsa(closure)
            finally:
                self._copies = None
        else:
            loss, deltas = self.spsa(closure)
        terms = {
            seed: [-group["lr"] * delta / (len(deltas) * group["eps"]) for group in self.param_groups]
            for seed, delta in deltas.items()
        }
        self.commit(terms, [1.0 - g["lr"] * g["weight_decay"] for g in self.param_groups])
        return loss

    def evaluate(self, closure: Closure, terms: Mapping[Any, Coefficient] | None = None) -> float:
        """As in the base; in a parallel step, of the next copy."""
        copies = self._copies
        if copies is None:
            return super().evaluate(closure, terms)
        index = len(self.last.losses)
        loss = self._call(lambda: copies.run(closure, index))
        self.num_evaluations += 1
        self.last.losses.append(loss)
        return loss

    def _batched(self) -> BatchedCopies:
        assert self._module is not None  # checked by the constructor
        module = self._module()
        if module is None:
            raise RuntimeError("the module this AdaZeta was given is gone")
        trainables = self.engine.trainables
        return BatchedCopies(
            module,
            [Trainable(p, i, g) for i, (p, g) in enumerate(zip(trainables.params, trainables.group))],
            distribution=self.distribution,
            max_parallel=self.max_parallel,
        )


def _is_small(module: nn.Module) -> bool:
    sizes = [(p.numel() * p.element_size(), p.requires_grad) for p in module.parameters()]
    return sum(s for s, trained in sizes if trained) <= SMALL * sum(s for s, _ in sizes)
