"""Schedules that are not learning rates (those of `torch.optim.lr_scheduler` work as they are)."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from ..call.checks import as_number, check_integer, check_kind, check_number, kept


@dataclass(frozen=True)
class QuerySchedule:
    r"""Queries a step that grow with the epoch, as AdaZeta has them.

    .. math:: Q(e) = \min(\max(1, \lfloor \alpha\, e^\beta \rfloor), Q_{\max})

    Works with every optimizer here: `MeZO(model, num_queries=QuerySchedule(steps_per_epoch=63))`.

    Args:
        alpha: factor, > 0.
        beta: exponent, >= 0.
        q_max: most queries a step, >= 1.
        steps_per_epoch: lets the optimizer count epochs itself, as ceil(samples / batch size) steps
            each; without it, call `optimizer.set_epoch(epoch)`.

    Raises ValueError where an argument is out of range.

    Source: AdaZeta (Yang et al. 2024, arXiv:2406.18060), equation of the query schedule; the floor
        and the lower clamp make it an integer >= 1 at every epoch.

    Example:
        >>> [QuerySchedule().queries(epoch) for epoch in (0, 1, 2, 5, 10, 20, 40, 79)]
        [1, 1, 1, 1, 2, 3, 4, 6]
    """

    alpha: float = 0.85
    beta: float = 0.45
    q_max: int = 20
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        kept(self, "alpha", check_number("alpha", self.alpha, 0.0, above=True))
        kept(self, "beta", check_number("beta", self.beta, 0.0))
        kept(self, "q_max", check_integer("q_max", self.q_max, 1))
        if self.steps_per_epoch is not None:
            kept(self, "steps_per_epoch", check_integer("steps_per_epoch", self.steps_per_epoch, 1))

    @classmethod
    def reach(
        cls,
        q_last: int,
        epochs: int,
        *,
        alpha: float = 0.85,
        q_max: int | None = None,
        steps_per_epoch: int | None = None,
    ) -> QuerySchedule:
        """The schedule that reaches `q_last` queries after `epochs` epochs.

        beta = ln(q_last / alpha) / ln(epochs), for `q_last` >= max(1, alpha) and `epochs` > 1. The other
        arguments are as above, `q_max` by default `q_last`.
        """
        alpha = check_number("alpha", alpha, 0.0, above=True)
        epochs, q_last = check_integer("epochs", epochs, 2), check_integer("q_last", q_last, 1)
        if q_last < alpha:
            raise ValueError(f"q_last must be >= alpha = {alpha:g}, got {q_last}")
        beta = math.log(q_last / alpha) / math.log(epochs)
        return cls(alpha, beta, q_last if q_max is None else q_max, steps_per_epoch)

    def queries(self, epoch: int) -> int:
        """Queries a step in epoch `epoch` (from 0)."""
        epoch = check_integer("epoch", epoch, 0)
        # an exact integer may come out a rounding below itself: 0.85 * 8**beta = 3.9999999999999996
        grown = math.floor(round(self.alpha * epoch**self.beta, 9))
        return min(max(1, grown), self.q_max)


class PlateauAnneal:
    r"""Divides the learning rates when the mean loss of an epoch has risen, as MeZO-SVRG has it.

    .. math:: m_1 = \mathrm{mean}(L[-w:]), \quad m_2 = \mathrm{mean}(L[-2w:-w]), \qquad
              \eta \leftarrow \eta / \mathrm{factor} \ \text{ if } \ m_1 / m_2 > \kappa

    Call `step(loss)` after each step of the optimizer; the test is made at the end of each epoch, from
    the second on. Where m_2 is negative (the closure returns minus an accuracy, say) the test is
    m_1 > m_2 + (\kappa - 1) |m_2|, the same for positive losses.

    It divides `lr` of each param group, and so the second rate of `MeZOSVRG`. A scheduler that sets rates
    from the step number alone would undo that.

    Args:
        optimizer: any of `torch.optim` or here.
        steps_per_epoch: w, batches in an epoch.
        factor: what rates are divided by, > 1.
        threshold: \kappa.

    Raises ValueError where an argument is out of range.

    Source: Gautam et al. 2024 (arXiv:2404.08080), Algorithm 4; \kappa = 1.05 and factor 5 are theirs.

    Example:
        >>> anneal = zokern.optim.PlateauAnneal(optimizer, steps_per_epoch=len(loader))
        >>> anneal.step(optimizer.step(closure, full_closure=full))
    """

    def __init__(
        self, optimizer: Optimizer, steps_per_epoch: int, *, factor: float = 5.0, threshold: float = 1.05
    ) -> None:
        check_kind("optimizer", optimizer, Optimizer, "an optimizer")
        steps_per_epoch = check_integer("steps_per_epoch", steps_per_epoch, 1)
        factor = check_number("factor", factor, 1.0, above=True)
        threshold = check_number("threshold", threshold, 0.0, above=True)
        self.optimizer = optimizer
        self.factor = factor
        self.threshold = threshold
        self.steps_per_epoch = steps_per_epoch
        self.num_anneals = 0
        self._seen = 0
        self._losses: deque[float] = deque(maxlen=2 * steps_per_epoch)

    def step(self, loss: float) -> bool:
        """Notes a step's loss; returns whether the rates were divided."""
        self._losses.append(as_number("loss", loss))
        self._seen += 1
        width = self.steps_per_epoch
        if self._seen % width or len(self._losses) < 2 * width:
            return False
        losses = list(self._losses)
        before, now = (math.fsum(half) / width for half in (losses[:width], losses[width:]))
        if not now > before + (self.threshold - 1.0) * abs(before):
            return False
        for group in self.optimizer.param_groups:
            group["lr"] /= self.factor
        self.num_anneals += 1
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a continued run needs (the rates are in the optimizer's state)."""
        return {"seen": self._seen, "losses": list(self._losses), "num_anneals": self.num_anneals}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        self._seen, self.num_anneals = state["seen"], state["num_anneals"]
        self._losses = deque(state["losses"], maxlen=2 * self.steps_per_epoch)
