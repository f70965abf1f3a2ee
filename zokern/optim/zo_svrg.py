"""ZO-SVRG, which MeZO-SVRG is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ..call.checks import check_integer
from ._svrg import SVRG, check_same, times
from .base import Combination
from .options import Params
from .record import Grads


class ZOSVRG(SVRG):
    r"""ZO-SVRG: a direction of its own for every sample. To compare with; `MeZOSVRG` is the one to use.

    .. math:: \hat\nabla f_I(\theta) = \frac{1}{|I|} \sum_{i \in I}
              \frac{f_i(\theta + \epsilon z_i) - f_i(\theta - \epsilon z_i)}{2\epsilon} z_i, \qquad
              \theta \leftarrow \theta - \eta\,[\hat\nabla f_I(\theta) - \hat\nabla f_I(\bar\theta)
              + \hat\nabla f(\bar\theta)]

    Both mini-batch terms of a sample share its direction. Every `interval` steps the anchor
    \bar\theta and its full-batch estimate are renewed; there both mini-batch terms are the same number,
    so such a step is - \eta \hat\nabla f(\theta) and does not evaluate them.

    Args:
        num_samples: n, of the full batch.
        lr: \eta. params, eps and options: as in `MeZOSVRG`, without `num_queries`.

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
        self, params: Params, lr: float = 1e-6, eps: float = 1e-3, *,
        num_samples: int, **options: Any,
    ) -> None:  # fmt: skip
        num_samples = check_integer("num_samples", num_samples, 1)
        if "num_queries" in options:
            raise TypeError(
                f"num_queries={options['num_queries']!r}: ZOSVRG has a direction for each sample instead"
            )
        self.num_samples = num_samples
        super().__init__(params, {"lr": lr}, eps=eps, **options)

    def step(self, closure: Callable[[int], Any], samples: Sequence[int]) -> float:  # type: ignore[override]
        """One step: full if `next_is_full`, else over the samples."""
        full = self.next_is_full
        chosen = range(self.num_samples) if full else samples
        if not len(chosen):
            raise ValueError("samples is empty")
        around: list[Combination] = [{}] if full else [{}, self._to_anchor()]
        grads: Grads = {}
        total = 0.0
        for query, i in enumerate(chosen):
            seed = self.next_seed(query)
            here, *there = self.spsa(partial(closure, int(i)), seeds=[seed], around=around)
            for along, values in (here.minus(there[0]) if there else here).grads.items():
                grads[along] = [g / len(chosen) for g in values]
            total += here.loss
        rates = [group["lr"] for group in self.param_groups]
        if full:
            self._start_interval(grads, rates)
        else:
            self._move(times({**grads, **self._full}, rates), rates)
        return total / len(chosen)

    def _method_state(self) -> dict[str, Any]:
        return {**super()._method_state(), "num_samples": self.num_samples}

    def _load_method_state(self, state: Mapping[str, Any]) -> None:
        check_same("num_samples", state["num_samples"], self.num_samples)
        super()._load_method_state(state)
