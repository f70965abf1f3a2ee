"""Variance-reduced zeroth-order SGD: MeZO-SVRG, and ZO-SVRG which it is compared with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ._groups import check_choice, check_number
from ._steps import Closure, as_scalar
from .base import ZerothOrderOptimizer
from .engine import ApplySeeds, Batch
from .restore_exact import _is_compiled
from .schedules import QuerySchedule

Grads = dict[int, list[float]]
"""Seed to coefficient of its z, one a param group."""

SNAPSHOT = "snapshot"
"""A direction: `{SNAPSHOT: 1.0, seed: eps}` names the point snapshot + eps z(seed)."""

B = TypeVar("B")


def weighted_mean(
    loss: Callable[[B], Any], batches: Sequence[B], sizes: Sequence[float] | None = None
) -> Closure:
    """A full-batch closure from micro-batches: the mean of `loss(batch)`, weighted by size.

    Args:
        loss: mean loss of a micro-batch.
        batches: the micro-batches; gone through at every call, so not an iterator.
        sizes: samples in each; default: length of the batch's first tensor.

    Raises:
        ValueError: no batch, or not one size a batch, or a size is not positive.

    Example:
        >>> full = weighted_mean(lambda batch: loss_fn(model(batch[0]), batch[1]), list(loader))
    """
    batches = list(batches)
    weights = [_size(batch) for batch in batches] if sizes is None else [float(s) for s in sizes]
    if not batches or len(weights) != len(batches):
        raise ValueError(f"sizes has {len(weights)} entries for {len(batches)} batches")
    if min(weights) <= 0:
        raise ValueError(f"sizes must be > 0, got {weights}")
    total = sum(weights)

    def closure() -> float:
        return sum(w * as_scalar(loss(batch)) for w, batch in zip(weights, batches)) / total

    return closure


def _size(batch: Any) -> float:
    if isinstance(batch, Tensor):
        return float(batch.shape[0]) if batch.dim() else 1.0
    values: list[Any] = []
    if hasattr(batch, "values"):  # a dict, or a tokenizer's batch encoding
        values = list(batch.values())
    elif isinstance(batch, (list, tuple)):
        values = list(batch)
    for value in values:
        if isinstance(value, Tensor) and value.dim():
            return float(value.shape[0])
    raise ValueError(f"sizes must be given: no tensor in a batch of type {type(batch).__name__}")


@dataclass(frozen=True)
class _FromSnapshot:
    """The usual pass; a point named with `SNAPSHOT` starts from the copy in place of the weights."""

    usual: ApplySeeds
    copies: dict[int, Tensor]

    def __call__(self, batch: Batch) -> None:
        if SNAPSHOT in batch.terms:
            terms = {key: value for key, value in batch.terms.items() if key != SNAPSHOT}
            batch = replace(batch, source=[self.copies[i] for i in batch.indices], terms=terms)
        self.usual(batch)


class _SVRG(ZerothOrderOptimizer):
    """What the two methods share: a snapshot of the weights, its full-batch estimate, and the moves
    made since. A subclass writes the two kinds of step."""

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        defaults: dict[str, Any],
        *,
        interval: int,
        snapshot: str,
        distribution: str,
        restore: str,
        module: nn.Module | None,
        **options: Any,
    ) -> None:
        check_number("interval", interval, 1, integer=True)
        check_choice("snapshot", snapshot, ("replay", "copy"))
        self.interval = interval
        self.snapshot = snapshot
        if isinstance(params, nn.Module):
            module = params
        self._copies: dict[int, Tensor] = {}
        if snapshot == "copy":
            if restore == "inplace":
                raise ValueError(
                    "snapshot='copy' visits the copy without moving it, and so needs "
                    "restore='exact' or 'snapshot', got 'inplace'"
                )
            if restore == "auto":
                hooked = module is not None and not any(map(_is_compiled, module.modules()))
                restore = "exact" if hooked else "snapshot"
            options["apply"] = _FromSnapshot(ApplySeeds(distribution), self._copies)
        self._since: int | None = None
        self._full: Grads = {}
        self._moved: Grads = {}
        self._owed: list[float] = []
        super().__init__(
            params,
            defaults,
            distribution=distribution,
            restore=restore,
            module=module,
            **options,
        )

    @property
    def next_is_full(self) -> bool:
        """Whether the next step is a full one: it renews the snapshot and its full-batch estimate.

        That is every `interval`-th step, from the first; one that was skipped is made up for."""
        return self._since is None or self._since >= self.interval

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; the next step is then a full one."""
        super().add_param_group(param_group)
        self._since = None
        self._owed.append(1.0)

    @abstractmethod
    def step(self, closure: Closure) -> float:  # type: ignore[override]
        """One step."""

    # -- inside -------------------------------------------------------------------------------

    def _start_interval(self, full: Grads, terms: Grads, rates: list[float]) -> None:
        """Takes the snapshot, keeps its estimate and commits the full step."""
        if self.skips(*(value for values in terms.values() for value in values)):
            return
        if self.snapshot == "copy":
            self._copy()
        self._since = 0
        self._full, self._moved = full, {}
        self._move(terms, rates)

    def _move(self, terms: Grads, rates: list[float]) -> None:
        """Commits a move and notes it, for the walk back to the snapshot.

        Decay of an interval's steps is applied in its last one: until then weights and snapshot
        differ by a sum of directions alone.
        """
        assert self._since is not None
        self._since += 1
        owed = [
            before * (1.0 - rate * group["weight_decay"])
            for before, rate, group in zip(self._owed, rates, self.param_groups)
        ]
        last = self._since >= self.interval
        if not self.commit(terms, owed if last else 1.0):
            return
        self._owed = [1.0] * len(owed) if last else owed
        for seed, values in terms.items():
            before = self._moved.get(seed, [0.0] * len(values))
            self._moved[seed] = [b + v for b, v in zip(before, values)]

    def _to_snapshot(self) -> dict[Any, Any]:
        """The displacement that leads from the committed weights to the snapshot."""
        if self.snapshot == "copy":
            return {SNAPSHOT: 1.0}
        return {seed: [-v for v in values] for seed, values in self._moved.items()}

    def _difference_at_snapshot(self, closure: Closure, seed: int) -> float:
        """(loss(snapshot + eps z) - loss(snapshot - eps z)) / 2."""
        eps = [group["eps"] for group in self.param_groups]
        there = self._to_snapshot()
        plus = self.evaluate(closure, {seed: eps, **there})
        minus = self.evaluate(closure, {seed: [-e for e in eps], **there})
        return (plus - minus) / 2

    def _copy(self) -> None:
        self.engine.land()
        for i, p in enumerate(self.trainables):
            if "snapshot" not in self.state[p]:
                with torch.inference_mode(False):
                    self.state[p]["snapshot"] = torch.empty_like(p, requires_grad=False)
            self._copies[i] = self.state[p]["snapshot"]
        if self._copies:
            torch._foreach_copy_(list(self._copies.values()), self.trainables)

    def _method_state(self) -> dict[str, Any]:
        return {
            "since": self._since,
            "full": dict(self._full),
            "moved": dict(self._moved),
            "owed": list(self._owed),
            "snapshot": self.snapshot,
        }

    def _load_method_state(self, state: dict[str, Any]) -> None:
        if state["snapshot"] != self.snapshot:
            raise ValueError(
                f"state_dict was saved with snapshot={state['snapshot']!r}, "
                f"this optimizer has {self.snapshot!r}"
            )
        self._since, self._owed = state["since"], list(state["owed"])
        self._full, self._moved = dict(state["full"]), dict(state["moved"])
        self._copies.clear()
        if self.snapshot == "copy" and self._since is not None:
            self._copies.update((i, self.state[p]["snapshot"]) for i, p in enumerate(self.trainables))


class MeZOSVRG(_SVRG):
    r"""MeZO with the variance of the mini-batch taken out, in MeZO's memory.

    Every `interval` steps a full step, over the full (or a large) batch: the snapshot \bar\theta
    becomes \theta, and with the seed s_f

    .. math:: c_f = \frac{\ell(\theta + \epsilon z_f) - \ell(\theta - \epsilon z_f)}{2\epsilon},
              \qquad \theta \leftarrow \theta - \eta_1 c_f z_f

    All other steps, over a mini-batch I, with one seed for both points,

    .. math:: c = \frac{\ell_I(\theta + \epsilon z) - \ell_I(\theta - \epsilon z)}{2\epsilon}, \quad
              \bar c = \frac{\ell_I(\bar\theta + \epsilon z) - \ell_I(\bar\theta - \epsilon z)}{2\epsilon},
              \qquad \theta \leftarrow \theta - \eta_2 \left[ (c - \bar c) z + c_f z_f \right]

    The full-batch estimate is two numbers (s_f, c_f), and the snapshot is the weights minus the moves
    since, at most `interval` (seed, coefficient) pairs: no buffer, where the paper keeps two.

    Args:
        params: a module, `parameters()`, `named_parameters()` or param groups.
        lr: \eta_1, of full steps.
        eps: perturbation scale \epsilon.
        lr_minibatch: \eta_2, of the other steps; smaller than `lr`. It keeps its ratio to `lr`, whatever
            a scheduler of `torch.optim.lr_scheduler`, `PlateauAnneal` or the user makes of that.
        interval: q: a full step, then q - 1 others.
        snapshot: "replay" walks from the weights to the snapshot and back by regenerating the moves:
            no memory; back to rounding (for 16-bit weights to the rounding of their updates). "copy"
            keeps the snapshot bit for bit: one more buffer as large as the trainables. It needs
            `restore="exact"` (the choice of "auto" where there is a module) or "snapshot".
        num_queries: Q, directions a step, or a `QuerySchedule`; the estimates are averaged.
        weight_decay: decoupled decay. The decay of an interval is applied in its last step.
        distribution, restore, lazy, rounding, seed, module: see `MeZO`.

    `lr`, `lr_minibatch`, `eps` and `weight_decay` may differ between param groups.

    `step(closure, full_closure=...)`: `closure` is the loss of one mini-batch, the same at each of its
    calls; `full_closure` that of the full batch, called in full steps only (`next_is_full`).
    `weighted_mean` makes one from micro-batches.

    Returns (of `step`):
        The mean of the losses at \theta +- \epsilon z, of whichever batch the step used.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range, or a full step has no
            `full_closure`.

    Cost: full step 2Q forwards over the full batch and 2Q + 1 passes; other steps 4Q forwards over the
        mini-batch and 4Q + 1 passes (`lazy`: one pass less each), up to `interval` more normals in
        the pass to the snapshot and in the one back.

    Source: Gautam et al. 2024, "Variance-reduced zeroth-order methods for fine-tuning language models"
        (arXiv:2404.08080), Algorithm 1 and estimators (5) and (6).

    Example:
        >>> optimizer = zokern.optim.MeZOSVRG(model, lr=1e-4, lr_minibatch=1e-6, interval=5)
        >>> full = zokern.optim.weighted_mean(loss_of_batch, list(loader))
        >>> for batch in loader:
        ...     loss = optimizer.step(lambda: loss_of_batch(batch), full_closure=full)
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 1e-5,
        eps: float = 1e-3,
        *,
        lr_minibatch: float = 1e-6,
        interval: int = 2,
        snapshot: str = "replay",
        num_queries: int | QuerySchedule = 1,
        weight_decay: float = 0.0,
        distribution: str = "gaussian",
        restore: str = "auto",
        lazy: bool = False,
        rounding: str = "stochastic",
        seed: int = 0,
        module: nn.Module | None = None,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "lr_minibatch": lr_minibatch, "weight_decay": weight_decay},
            eps=eps,
            interval=interval,
            snapshot=snapshot,
            num_queries=num_queries,
            distribution=distribution,
            restore=restore,
            lazy=lazy,
            rounding=rounding,
            seed=seed,
            module=module,
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; the next step is then a full one."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.setdefault("lr_begun", group["lr"])

    def step(  # type: ignore[override]
        self, closure: Closure, full_closure: Closure | None = None
    ) -> float:
        """One step: full if `next_is_full`, else over the mini-batch of `closure`."""
        if self.next_is_full:
            if full_closure is None:
                if self._replay is None:
                    raise ValueError(
                        f"step {self.steps} is a full step and needs full_closure, the loss of the full "
                        f"(or a large) batch"
                    )
                full_closure = closure
            return self._full_step(full_closure)
        return self._minibatch_step(closure)

    def _full_step(self, closure: Closure) -> float:
        loss, deltas = self.spsa(closure)
        full = self._grads(deltas)
        rates = [group["lr"] for group in self.param_groups]
        self._start_interval(full, _times(full, rates), rates)
        return loss

    def _minibatch_step(self, closure: Closure) -> float:
        loss, deltas = self.spsa(closure)
        corrected = {
            seed: delta - self._difference_at_snapshot(closure, seed) for seed, delta in deltas.items()
        }
        rates = [_minibatch_rate(group) for group in self.param_groups]
        self._move(_times({**self._grads(corrected), **self._full}, rates), rates)
        return loss

    def _grads(self, deltas: dict[int, float]) -> Grads:
        return {
            seed: [delta / (len(deltas) * group["eps"]) for group in self.param_groups]
            for seed, delta in deltas.items()
        }


def _times(grads: Grads, rates: list[float]) -> Grads:
    """The moves of a descent along `grads`."""
    return {seed: [-r * g for r, g in zip(rates, values)] for seed, values in grads.items()}


def _minibatch_rate(group: dict[str, Any]) -> float:
    """eta_2: it follows what schedulers do to eta_1."""
    begun = group["lr_begun"]
    return float(group["lr_minibatch"] * (group["lr"] / begun if begun else 1.0))


class ZOSVRG(_SVRG):
    r"""ZO-SVRG: a direction of its own for every sample. To compare with; `MeZOSVRG` is the one to use.

    .. math:: \hat\nabla f_I(\theta) = \frac{1}{|I|} \sum_{i \in I}
              \frac{f_i(\theta + \epsilon z_i) - f_i(\theta - \epsilon z_i)}{2\epsilon} z_i, \qquad
              \theta \leftarrow \theta - \eta\,[\hat\nabla f_I(\theta) - \hat\nabla f_I(\bar\theta)
              + \hat\nabla f(\bar\theta)]

    Both mini-batch terms of a sample share its direction. Every `interval` steps the snapshot
    \bar\theta and its full-batch estimate are renewed; there both mini-batch terms are the same number,
    so such a step is - \eta \hat\nabla f(\theta) and does not evaluate them.

    Args:
        num_samples: n, of the full batch.
        lr: \eta; eps, interval, snapshot, weight_decay, ...: see `MeZOSVRG`.

    `step(closure, samples)`: `closure(i)` is the loss of sample i; `samples` are the indices of the
    mini-batch.

    Cost: full step 2n forwards of one sample and 2n + 1 passes; other steps 4b forwards and 4b + 1
        passes for b samples. The full-batch estimate is n (seed, coefficient) pairs: the update
        regenerates n normals an element.

    Source: Liu et al. 2018, as Algorithm 2 and estimators (3) and (4) of Gautam et al. 2024
        (arXiv:2404.08080).

    Example:
        >>> optimizer = zokern.optim.ZOSVRG(model, num_samples=512, lr=1e-4, interval=5)
        >>> loss = optimizer.step(lambda i: loss_fn(model(x[i]), y[i]), samples=[3, 14, 15])
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 1e-6,
        eps: float = 1e-3,
        *,
        num_samples: int,
        interval: int = 2,
        snapshot: str = "replay",
        weight_decay: float = 0.0,
        distribution: str = "gaussian",
        restore: str = "auto",
        lazy: bool = False,
        rounding: str = "stochastic",
        seed: int = 0,
        module: nn.Module | None = None,
    ) -> None:
        check_number("num_samples", num_samples, 1, integer=True)
        self.num_samples = num_samples
        super().__init__(
            params,
            {"lr": lr, "weight_decay": weight_decay},
            eps=eps,
            interval=interval,
            snapshot=snapshot,
            distribution=distribution,
            restore=restore,
            lazy=lazy,
            rounding=rounding,
            seed=seed,
            module=module,
        )

    def step(  # type: ignore[override]
        self, closure: Callable[[int], Any], samples: Sequence[int]
    ) -> float:
        """One step: full if `next_is_full`, else over the samples."""
        full = self.next_is_full
        chosen = range(self.num_samples) if full else samples
        if not len(chosen):
            raise ValueError("samples is empty")
        eps = [group["eps"] for group in self.param_groups]
        rates = [group["lr"] for group in self.param_groups]
        grads: Grads = {}
        total = 0.0
        for query, i in enumerate(chosen):
            seed = self.next_seed(query)
            loss_of_sample = partial(closure, int(i))
            plus = self.evaluate(loss_of_sample, {seed: eps})
            minus = self.evaluate(loss_of_sample, {seed: [-e for e in eps]})
            delta = (plus - minus) / 2
            if not full:
                delta -= self._difference_at_snapshot(loss_of_sample, seed)
            self.last.projected_grads[seed] = delta / eps[0]
            grads[seed] = [delta / (len(chosen) * e) for e in eps]
            total += (plus + minus) / 2
        if full:
            self._start_interval(grads, _times(grads, rates), rates)
        else:
            self._move(_times({**grads, **self._full}, rates), rates)
        return total / len(chosen)

    def _method_state(self) -> dict[str, Any]:
        return {**super()._method_state(), "num_samples": self.num_samples}

    def _load_method_state(self, state: dict[str, Any]) -> None:
        if state["num_samples"] != self.num_samples:
            raise ValueError(
                f"state_dict was saved with num_samples={state['num_samples']}, "
                f"this optimizer has {self.num_samples}"
            )
        super()._load_method_state(state)
