"""AdaZeta: MeZO with queries that grow with the epoch, for tensor-train adapters."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..call.checks import check_integer
from .mezo import MeZO
from .options import Params, Queries, renamed
from .restore import Needs
from .schedules import QuerySchedule

QUERIES = QuerySchedule()


class AdaZeta(MeZO):
    r"""Averages Q_k two-sided estimates a step, Q_k growing with the epoch; made for TT adapters.

    .. math::
        \theta \leftarrow (1 - \eta\lambda)\,\theta - \frac{\eta}{Q_k} \sum_{q=1}^{Q_k}
        \frac{\ell(\theta + \epsilon z_q) - \ell(\theta - \epsilon z_q)}{2\epsilon}\, z_q

    `MeZO` with a schedule of queries and the published rate. The 2Q evaluations of a step do not depend
    on each other: `evaluation="loop"` runs one forward for each, `evaluation="batched"` one for all.

    Args:
        params, eps, options: as in `MeZO`.
        lr: learning rate \eta: 1e-4 and 5e-5 are the published values.
        schedule: Q by epoch, or a fixed number.
        steps_per_epoch: ceil(samples / batch size), for the schedule; without it, call
            `set_epoch(epoch)`.
        evaluation: batched, the noise of TT layers and adapters is made inside the layer, no copy is stored.
        restore: "auto" is "snapshot" where the trainables are at most 1/16 of the module, and batched.

    Returns and errors: as `MeZO`; RuntimeError where a closure does not keep to what "batched" needs.

    Cost: 2Q forwards, or one of 2Q batches; one pass over the trainables a move.

    Source: Yang et al. 2024, "AdaZeta" (arXiv:2406.18060), algorithm 1; the loop of queries is named
        there as the method's limitation.

    Example:
        >>> zokern.nn.add_tt_adapters(model, bottleneck=64, rank=5)
        >>> optimizer = AdaZeta(model, lr=1e-4, steps_per_epoch=63, evaluation="batched")
        >>> for x, y in batches:
        ...     loss = optimizer.step(lambda: cross_entropy(model(x).logits[:, -1], y))
    """

    def __init__(
        self, params: Params, lr: float = 1e-4, eps: float = 1e-3, *,
        schedule: Queries | int = QUERIES, steps_per_epoch: int | None = None, **options: Any,
    ) -> None:  # fmt: skip
        renamed(options, "AdaZeta", "queries", "evaluation", parallel="batched")
        if steps_per_epoch is not None:
            steps_per_epoch = check_integer("steps_per_epoch", steps_per_epoch, 1)
            if isinstance(schedule, QuerySchedule):
                schedule = dataclasses.replace(schedule, steps_per_epoch=steps_per_epoch)
        if isinstance(schedule, type) or not hasattr(schedule, "queries"):
            schedule = check_integer("schedule", schedule, 1)
        super().__init__(params, lr, eps, num_queries=schedule, **options)

    def _needs(self) -> Needs:
        return dataclasses.replace(super()._needs(), copies_small_sets=True)
