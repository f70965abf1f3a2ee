"""Sparse-MeZO: only some of the weights are perturbed and updated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..call.checks import check_kind
from .mezo import MeZO
from .options import Params
from .perturb_blocks import BlockDirections, Blocks, BlockSchedule
from .perturb_masked import GivenMasks, MaskedDirections, SmallWeights
from .perturbation import Perturbation


class SparseMeZO(MeZO):
    r"""MeZO on the small weights only, on the elements of given masks, or on some blocks at a time.

    .. math::
        \hat z_j = z_j \text{ where } |\theta_j| \le h, \text{ else } 0, \qquad
        g = \frac{\ell(\theta + \epsilon \hat z) - \ell(\theta - \epsilon \hat z)}{2\epsilon}, \qquad
        \theta \leftarrow \theta - \eta g \hat z

    `MeZO` with `perturbation=SmallWeights(sparsity, refresh)`, or `GivenMasks(masks)`, within
    `Blocks(blocks)` if there are any: these may be given to any method.

    Args:
        params, lr, eps: as in `MeZO`.
        sparsity, refresh: see `SmallWeights`; sparsity 0 moves all.
        masks: in place of thresholds; see `GivenMasks`.
        blocks: a `BlockSchedule`; both kinds of mask combine with it.
        options: of `MeZO`. restore="auto" is "exact" where there is a module that is not compiled; else
            in place for fp32 and float64, and "snapshot" for 16 bits. Without thresholds it is as for
            `MeZO`.

    `lr`, `eps`, `sparsity` and `weight_decay` may differ between param groups. Returns and errors: as `MeZO`.

    Cost: as `MeZO`; in place one pass and one byte a weight more for the masks.

    Source: Liu et al. 2024, "Sparse MeZO" (arXiv:2402.15751), Algorithm 1.

    Example:
        >>> optimizer = zokern.optim.SparseMeZO(model, lr=1e-6, sparsity=0.75)
        >>> layers = zokern.optim.BlockSchedule(active=4, order="random")
        >>> optimizer = zokern.optim.SparseMeZO(model, lr=1e-6, sparsity=0.0, blocks=layers)
    """

    def __init__(
        self, params: Params, lr: float = 1e-6, eps: float = 1e-3, *,
        sparsity: float = 0.75, refresh: int | None = None,
        masks: Mapping[str | int, Tensor] | None = None, blocks: BlockSchedule | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        kind: Perturbation = SmallWeights(sparsity, refresh) if masks is None else GivenMasks(masks)
        if blocks is not None:
            check_kind("blocks", blocks, BlockSchedule, "a BlockSchedule")
            kind = Blocks(blocks, kind)
        super().__init__(params, lr, eps, perturbation=kind, **options)

    @property
    def active(self) -> tuple[int, ...]:
        """The blocks that the next step moves; without `blocks`, none."""
        directions = self.directions
        return directions.choose(self.steps) if isinstance(directions, BlockDirections) else ()

    @property
    def thresholds(self) -> dict[str, float]:
        """Name of a parameter to its present threshold."""
        inner = self.directions.of if isinstance(self.directions, BlockDirections) else self.directions
        assert isinstance(inner, MaskedDirections)  # by the constructor
        names = self.engine.trainables.names
        return {names[i]: value for i, value in inner.thresholds.items()}
