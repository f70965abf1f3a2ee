"""MeZO-SVRG: MeZO with the variance of the mini-batch taken out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from ..call.checks import as_sequence, check_finite, shown
from ._svrg import SVRG, times
from .options import Params
from .record import Closure, as_scalar

B = TypeVar("B")


class MeZOSVRG(SVRG):
    r"""MeZO with the variance of the mini-batch taken out, in MeZO's memory.

    Every `interval` steps a full step, over the full (or a large) batch: the anchor \bar\theta
    becomes \theta, and with the seed s_f

    .. math:: c_f = \frac{\ell(\theta + \epsilon z_f) - \ell(\theta - \epsilon z_f)}{2\epsilon},
              \qquad \theta \leftarrow \theta - \eta_1 c_f z_f

    All other steps, over a mini-batch I, with one seed for both points,

    .. math:: c = \frac{\ell_I(\theta + \epsilon z) - \ell_I(\theta - \epsilon z)}{2\epsilon}, \quad
              \bar c = \frac{\ell_I(\bar\theta + \epsilon z) - \ell_I(\bar\theta - \epsilon z)}{2\epsilon},
              \qquad \theta \leftarrow \theta - \eta_2 \left[ (c - \bar c) z + c_f z_f \right]

    The full-batch estimate is two numbers (s_f, c_f), and the anchor is the weights minus the moves
    since, at most `interval` (seed, coefficient) pairs: no buffer, where the paper keeps two.

    Args:
        params, eps: as in `MeZO`.
        lr: \eta_1, of full steps.
        lr_minibatch: \eta_2, of the other steps; smaller than `lr`. It keeps its ratio to `lr`, whatever
            a scheduler of `torch.optim.lr_scheduler`, `PlateauAnneal` or the user makes of that.
        interval: q: a full step, then q - 1 others.
        anchor: "replay" walks from the weights to the anchor and back by regenerating the moves:
            no memory; back to rounding (for 16-bit weights to the rounding of their updates). "copy"
            keeps the anchor bit for bit: one more buffer as large as the trainables. It needs
            `restore="exact"` (the choice of "auto" where there is a module) or "snapshot".
        weight_decay: decoupled decay. The decay of an interval is applied in its last step.
        options: keywords of every method, as in `MeZO`. Masks and blocks of a `perturbation` are chosen at
            a full step and hold for the interval, since both points of an estimate need the same
            directions.

    `lr`, `lr_minibatch`, `eps` and `weight_decay` may differ between param groups.

    `step(closure, full_closure=...)`: `closure` is the loss of one mini-batch, the same at each of its
    calls; `full_closure` that of the full batch, called in full steps only (`next_is_full`).
    `weighted_mean` makes one from micro-batches.

    Returns and errors: as `MeZO`, of whichever batch the step used; ValueError where a full step has no
    `full_closure`.

    Cost: full step 2Q forwards over the full batch and 2Q + 1 passes; other steps 4Q forwards over the
        mini-batch and 4Q + 1 passes (`lazy`: one pass less each), up to `interval` more normals in
        the pass to the anchor and in the one back.

    Source: Gautam et al. 2024, "Variance-reduced zeroth-order methods for fine-tuning language models"
        (arXiv:2404.08080), Algorithm 1 and estimators (5) and (6).

    Example:
        >>> optimizer = zokern.optim.MeZOSVRG(model, lr=1e-4, lr_minibatch=1e-6, interval=5)
        >>> full = zokern.optim.weighted_mean(loss_of_batch, list(loader))
        >>> for batch in loader:
        ...     loss = optimizer.step(lambda: loss_of_batch(batch), full_closure=full)
    """

    def __init__(
        self, params: Params, lr: float = 1e-5, eps: float = 1e-3, *,
        lr_minibatch: float = 1e-6, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(params, {"lr": lr, "lr_minibatch": lr_minibatch}, eps=eps, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; the next step is then a full one."""
        super().add_param_group(param_group)
        self.param_groups[-1].setdefault("lr_begun", self.param_groups[-1]["lr"])

    def step(self, closure: Closure, full_closure: Closure | None = None) -> float:  # type: ignore[override]
        """One step: full if `next_is_full`, else over the mini-batch of `closure`."""
        if not self.next_is_full:
            return self._minibatch_step(closure)
        if full_closure is None and not self.replaying:
            raise ValueError(
                f"step {self.steps} is a full step and needs full_closure, the loss of the full "
                f"(or a large) batch"
            )
        (estimate,) = self.spsa(closure if full_closure is None else full_closure)
        self._start_interval(estimate.grads, [group["lr"] for group in self.param_groups])
        return estimate.loss

    def _minibatch_step(self, closure: Closure) -> float:
        here, there = self.spsa(closure, around=[{}, self._to_anchor()])
        rates = [_minibatch_rate(group) for group in self.param_groups]
        self._move(times({**here.minus(there).grads, **self._full}, rates), rates)
        return here.loss


def _minibatch_rate(group: dict[str, Any]) -> float:
    """eta_2: it follows what schedulers do to eta_1."""
    begun = group["lr_begun"]
    return float(group["lr_minibatch"] * (group["lr"] / begun if begun else 1.0))


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
    if not callable(loss):
        raise TypeError(f"loss must be a function of a batch, got {shown(loss)}")
    batches = as_sequence("batches", batches, "a list of batches")
    if sizes is None:
        weights = [_size(batch) for batch in batches]
    else:
        weights = [check_finite(f"sizes[{i}]", size) for i, size in enumerate(as_sequence("sizes", sizes))]
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
    entries = batch if isinstance(batch, (list, tuple)) else ()
    if hasattr(batch, "values"):  # a dict, or a tokenizer's batch encoding
        entries = tuple(batch.values())
    for value in entries:
        if isinstance(value, Tensor) and value.dim():
            return float(value.shape[0])
    raise ValueError(f"sizes must be given: no tensor in a batch of type {type(batch).__name__}")
