"""`perturbed`: move now, come back later, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from ..call.lists import Tensors, check_lists
from .perturb import perturb_


class perturbed:
    r"""Moves tensors as `perturb_` does, and brings them back to the same bits: for workers that perturb
    now and restore later.

    .. math:: \theta \leftarrow \theta_0 + \sum_k \mathrm{scales}_k\, z(\mathrm{seeds}_k), \qquad
              \theta \leftarrow \theta_0

    `perturb_` with the negated scale comes back to rounding only (fp32 drifts, bf16 more); this keeps a copy.

    Args:
        params, seeds, scales, decay, streams, offsets, distribution, rounding: as in `perturb_`.

    Raises:
        TypeError, ValueError, RuntimeError: as `perturb_`; after an error all tensors are as they were.

    Cost: a copy of the tensors, kept until this object goes; `move` is one pass, `restore` a copy.

    Example:
        >>> weights = [torch.randn(1000)]
        >>> with zokern.perturbed(weights, seeds=7, scales=1e-3) as held:  # moved
        ...     held.move(seeds=7, scales=-1e-3)  # to the other side of the kept weights
        >>> held = zokern.perturbed(weights, seeds=7, scales=1e-3)  # without a block
        >>> held.restore()
    """

    def __init__(
        self, params: Tensors, seeds: int | Sequence[int], scales: float | Sequence[float], *,
        decay: float = 1.0, streams: Sequence[int] | None = None, offsets: Sequence[int] | None = None,
        distribution: str = "gaussian", rounding: str = "nearest",
    ) -> None:  # fmt: skip
        lists = check_lists(params, None, streams, offsets)
        self.params = lists.params
        self.options: dict[str, Any] = {
            "decay": decay, "streams": lists.streams, "offsets": lists.offsets,
            "distribution": distribution, "rounding": rounding,
        }  # fmt: skip
        with torch.inference_mode(False), torch.no_grad():
            self.kept = [torch.empty_like(p, requires_grad=False) for p in self.params]
        self._copy(self.params, self.kept)
        self.move(seeds, scales)

    def move(self, seeds: int | Sequence[int], scales: float | Sequence[float]) -> None:
        """Goes to another place around the kept tensors, in one pass."""
        perturb_(self.kept, seeds, scales, out=self.params, **self.options)

    def restore(self) -> None:
        """Brings back the bits that the tensors had; as often as wanted."""
        self._copy(self.kept, self.params)

    @staticmethod
    def _copy(source: list[Tensor], target: list[Tensor]) -> None:
        if target:
            with torch.inference_mode(any(map(Tensor.is_inference, target))), torch.no_grad():
                torch._foreach_copy_(target, source)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()
