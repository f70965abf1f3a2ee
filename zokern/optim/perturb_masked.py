"""Masks: the small weights of each tensor (Sparse-MeZO), or elements that the user names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..call.checks import check_integer, check_kind, check_number, kept
from ..ops import perturb_, perturb_masked_
from .engine import Trainables
from .moves import Pass
from .perturbation import Directions, Perturbation, StepStart

CHUNK = 1 << 20


@dataclass(frozen=True)
class SmallWeights(Perturbation):
    r"""Perturbs and updates the small weights of each tensor only.

    .. math:: M = \{ j : |\theta_j| \le h \}, \qquad
              \hat z_j = z_j \text{ for } j \in M, \text{ else } 0

    h is a threshold a tensor, under which the 1 - `sparsity` smallest of its weights lie. M is the same in
    a step's probe, flip and update, a function of the committed weights: with `restore="exact"` and
    `"snapshot"` every pass starts from those and compares inside the kernel, no mask is stored. Where
    passes start from other values (in place; dense rules such as Adam; the points around MeZO-SVRG's
    anchor) boolean masks are kept, one byte a weight, drawn anew at each step (MeZO-SVRG: interval).

    Args:
        sparsity: fraction of each tensor's weights that is frozen, the largest; in [0, 1). A param
            group's "sparsity" overrides it: 0 for norms and biases, whose weights are all alike.
        refresh: thresholds are found at the first step and, with a number here, every `refresh` steps
            again. The mask follows the weights at every step in either case.

    Cost: finding thresholds reads the weights twice, in chunks.

    Source: Liu et al. 2024, "Sparse MeZO" (arXiv:2402.15751), Algorithm 1; sparsity 0.75 as in Yang et
        al. 2024 (arXiv:2406.18060).

    Example:
        >>> optimizer = zokern.optim.MeZO(model, lr=1e-6, perturbation=SmallWeights(0.75))
    """

    sparsity: float = 0.75
    refresh: int | None = None

    def __post_init__(self) -> None:
        kept(self, "sparsity", check_number("sparsity", self.sparsity, 0.0, high=1.0))
        if self.refresh is not None:
            kept(self, "refresh", check_integer("refresh", self.refresh, 1))

    def bind(self, distribution: str) -> Directions:
        return SmallDirections(distribution, self.sparsity, self.refresh)


@dataclass(frozen=True, eq=False)
class GivenMasks(Perturbation):
    """Perturbs and updates the elements of given masks only.

    Args:
        masks: name of a parameter (or its ordinal among the trainables) to a boolean tensor of its
            shape, True where it moves. Parameters not named move as a whole.

    Raises (when an optimizer takes it):
        TypeError, ValueError: a mask is no boolean tensor, or its name or shape does not fit.
    """

    masks: Mapping[str | int, Tensor]

    def __post_init__(self) -> None:
        check_kind("masks", self.masks, Mapping, "a dict of name to mask")

    def bind(self, distribution: str) -> Directions:
        return MaskedDirections(distribution, dict(self.masks))


class MaskedDirections(Directions):
    """z on the chosen elements: of stored masks, or by a threshold against a pass's source."""

    def __init__(self, distribution: str, given: Mapping[str | int, Tensor] | None = None) -> None:
        super().__init__()
        self.distribution = distribution
        self.given = given or {}
        self.thresholds: dict[int, float] = {}

    def attach(self, trainables: Trainables) -> None:
        ordinals: dict[str | int, int] = {name: i for i, name in enumerate(trainables.names)}
        ordinals |= {i: i for i in range(len(trainables.params))}
        for key, mask in self.given.items():
            if key not in ordinals:
                raise ValueError(f"masks[{key!r}] names no trainable parameter")
            i = ordinals[key]
            p = trainables.params[i]
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise TypeError(f"masks[{key!r}] must be a boolean tensor, got {found}")
            if mask.shape != p.shape:
                raise ValueError(f"masks[{key!r}] has shape {tuple(mask.shape)}, not {tuple(p.shape)}")
            self.masks[i] = mask.to(p.device)

    def apply(self, work: Pass) -> None:
        if work.is_identity():
            return
        kinds = ((i in self.masks, i in self.thresholds) for i in work.indices)
        for (masked, limited), part in work.split(kinds).items():
            if masked:
                masks = [self.masks[i] for i in part.indices]
                part.run(perturb_masked_, masks=masks, distribution=self.distribution)
            elif limited:
                thresholds = [self.thresholds[i] for i in part.indices]
                part.run(perturb_masked_, thresholds=thresholds, distribution=self.distribution)
            else:
                part.run(perturb_, distribution=self.distribution)


class SmallDirections(MaskedDirections):
    """z on the small weights."""

    draws_masks = True

    def __init__(self, distribution: str, sparsity: float, refresh: int | None) -> None:
        super().__init__(distribution)
        self.sparsity, self.refresh = sparsity, refresh
        self.committed = sparsity > 0.0
        self.found = False
        self.begun = -1  # the last step that began with a look at the weights
        self.params: list[Tensor] = []
        self.group: list[int] = []

    def attach(self, trainables: Trainables) -> None:
        self.params, self.group, self.found = trainables.params, trainables.group, False

    def begin(self, start: StepStart) -> None:
        # a multiple of `refresh` since the last choice, which may be several steps ago
        due = self.refresh is not None and start.step // self.refresh > self.begun // self.refresh
        self.begun = start.step
        if due or not self.found:
            start.flush()
            self.thresholds.clear()
            for i, (p, g) in enumerate(zip(self.params, self.group)):
                sparsity = start.param_groups[g].get("sparsity", self.sparsity)
                if sparsity and p.numel():
                    self.thresholds[i] = threshold(p, sparsity)
            self.found = True
        drawn = start.again and self.masks.keys() >= self.thresholds.keys()
        if self.thresholds and start.keeps_masks and not drawn:  # in place weights are back to rounding only
            start.flush()
            self._draw_masks()

    def _draw_masks(self) -> None:
        """The masks of the committed weights."""
        for i, h in self.thresholds.items():
            p = self.params[i]
            if i not in self.masks or self.masks[i].shape != p.shape:
                self.masks[i] = torch.empty_like(p, dtype=torch.bool, requires_grad=False)
            for mask, value in zip(_pieces(self.masks[i]), _pieces(p)):
                torch.le(value.abs(), h, out=mask)

    def state(self) -> dict[str, Any]:
        return {"found": self.found, "begun": self.begun, "thresholds": dict(self.thresholds)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.found, self.begun = state["found"], state.get("begun", self.begun)
        self.thresholds = dict(state["thresholds"])


def _pieces(tensor: Tensor) -> Iterable[Tensor]:
    """Views of at most `CHUNK` elements where the memory is dense, else the whole."""
    tensor = tensor.detach()
    return tensor.view(-1).split(CHUNK) if tensor.is_contiguous() else [tensor]


def threshold(weights: Tensor, sparsity: float) -> float:
    """The magnitude that the ceil((1 - sparsity) n) smallest of n weights do not exceed.

    Exactly that order statistic, found in two passes over fp32 bit patterns (which order as the
    magnitudes do), a piece at a time: no copy of the weights is made. float64 weights count as rounded
    to fp32.
    """
    rank = max(1, math.ceil((1.0 - sparsity) * weights.numel() - 1e-9))
    high = torch.zeros(1 << 15, dtype=torch.int64, device=weights.device)
    for bits in _bits(weights):
        high += torch.bincount(bits >> 16, minlength=1 << 15)
    below = high.cumsum(0)
    top = int(torch.searchsorted(below, rank))
    rank -= int(below[top]) - int(high[top])
    low = torch.zeros(1 << 16, dtype=torch.int64, device=weights.device)
    for bits in _bits(weights):
        low += torch.bincount((bits & 0xFFFF)[bits >> 16 == top], minlength=1 << 16)
    rest = int(torch.searchsorted(low.cumsum(0), rank))
    found = torch.tensor(top << 16 | rest, dtype=torch.int32).view(torch.float32).item()
    return found if found == found else math.inf


def _bits(weights: Tensor) -> Iterable[Tensor]:
    for piece in _pieces(weights):
        yield piece.reshape(-1).float().abs().view(torch.int32)
