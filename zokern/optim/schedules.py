"""Schedules that are not learning rates (those of `torch.optim.lr_scheduler` work as they are)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ._groups import check_number


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

    Raises:
        ValueError: an argument is out of range.

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
        check_number("alpha", self.alpha, 0.0, above=True)
        check_number("beta", self.beta, 0.0)
        check_number("q_max", self.q_max, 1, integer=True)
        if self.steps_per_epoch is not None:
            check_number("steps_per_epoch", self.steps_per_epoch, 1, integer=True)

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
        r"""The schedule that reaches `q_last` queries after `epochs` epochs.

        beta = ln(q_last / alpha) / ln(epochs).

        Args:
            q_last: queries at epoch `epochs`, >= max(1, alpha).
            epochs: > 1.
            alpha: as above.
            q_max: as above; default `q_last`.
            steps_per_epoch: as above.

        Raises:
            ValueError: an argument is out of range; with one epoch no exponent reaches anything.
        """
        check_number("alpha", alpha, 0.0, above=True)
        check_number("epochs", epochs, 2, integer=True)
        check_number("q_last", q_last, 1, integer=True)
        if q_last < alpha:
            raise ValueError(f"q_last must be >= alpha = {alpha:g}, got {q_last}")
        beta = math.log(q_last / alpha) / math.log(epochs)
        return cls(alpha, beta, q_last if q_max is None else q_max, steps_per_epoch)

    def queries(self, epoch: int) -> int:
        """Queries a step in epoch `epoch` (from 0)."""
        check_number("epoch", epoch, 0, integer=True)
        # an exact integer may come out a rounding below itself: 0.85 * 8**beta = 3.9999999999999996
        grown = math.floor(round(self.alpha * epoch**self.beta, 9))
        return min(max(1, grown), self.q_max)
