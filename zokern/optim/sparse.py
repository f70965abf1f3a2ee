"""Sparse-MeZO: only some of the weights are perturbed and updated."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..ops import perturb_, perturb_masked_
from ..random import derive_seed
from ._groups import check_choice, check_number
from ._steps import Closure
from .base import ZerothOrderOptimizer
from .engine import Batch, Key
from .restore_exact import takes_hooks
from .schedules import QuerySchedule

CHUNK = 1 << 20


@dataclass(frozen=True)
class BlockSchedule:
    r"""Block-coordinate selection: which blocks of parameters a step perturbs and updates.

    Args:
        active: blocks a step, >= 1; all where there are fewer.
        period: steps until the choice changes, >= 1.
        order: "cyclic" goes round, in the order of the parameters; "random" draws anew, without
            replacement, from `seed` and the step alone.
        by: what a block is. "layer": the parameters that share the first number in their names
            ("model.layers.3."), all without a number being one block. "group": a param group.
            "tensor": a parameter. Or a function from name to any hashable.
        seed: of order="random".

    Raises:
        ValueError: an argument is out of range.

    Source: block-coordinate MeZO as in LeZO (arXiv:2410.09823: order="random", period=1) and MeZO-BCD
        (arXiv:2501.19099: active=1).

    Example:
        >>> [BlockSchedule(active=2).choose(5, step) for step in range(3)]
        [(0, 1), (2, 3), (0, 4)]
    """

    active: int = 1
    period: int = 1
    order: str = "cyclic"
    by: str | Callable[[str], Hashable] = "layer"
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("active", self.active, 1, integer=True)
        check_number("period", self.period, 1, integer=True)
        check_choice("order", self.order, ("cyclic", "random"))
        if not callable(self.by):
            check_choice("by", self.by, ("layer", "group", "tensor"))

    def choose(self, num_blocks: int, step: int) -> tuple[int, ...]:
        """The blocks that step `step` (from 0) moves, ascending."""
        count = min(self.active, num_blocks)
        turn = step // self.period
        if self.order == "cyclic":
            return tuple(sorted((turn * count + k) % num_blocks for k in range(count)))
        deck = list(range(num_blocks))
        for k in range(count):  # a partial shuffle
            other = k + derive_seed(self.seed, turn, k) % (num_blocks - k)
            deck[k], deck[other] = deck[other], deck[k]
        return tuple(sorted(deck[:count]))

    def blocks(self, names: Sequence[str], groups: Sequence[int]) -> list[int]:
        """The block of each parameter, blocks numbered by first appearance."""
        if callable(self.by):
            keys: list[Hashable] = [self.by(name) for name in names]
        elif self.by == "group":
            keys = list(groups)
        elif self.by == "tensor":
            keys = list(range(len(names)))
        else:
            found = [re.match(r"(?:.*?\.)?\d+(?=\.|$)", name) for name in names]
            keys = [match.group() if match else "" for match in found]
        numbers = {key: n for n, key in enumerate(dict.fromkeys(keys))}
        return [numbers[key] for key in keys]


class BlockSeed(NamedTuple):
    """A direction: z of `seed` in the active blocks, zero elsewhere."""

    seed: int
    active: tuple[int, ...]


@dataclass
class _Masked:
    """A pass over the chosen elements: thresholds against the source, stored masks, active blocks."""

    distribution: str
    thresholds: dict[int, float] = field(default_factory=dict)
    masks: dict[int, Tensor] = field(default_factory=dict)
    block: list[int] = field(default_factory=list)

    def __call__(self, batch: Batch) -> None:
        if batch.is_identity():
            return
        parts: dict[tuple[tuple[Key, ...], str], list[int]] = {}
        for n, i in enumerate(batch.indices):
            keys = tuple(key for key in batch.terms if self._moves(key, i))
            kind = "mask" if i in self.masks else "threshold" if i in self.thresholds else "all"
            parts.setdefault((keys, kind), []).append(n)
        for (keys, kind), chosen in parts.items():
            part = batch.part(chosen) if len(parts) > 1 else batch
            self._pass(part, keys, kind)

    def _moves(self, key: Key, i: int) -> bool:
        return not isinstance(key, BlockSeed) or self.block[i] in key.active

    def _pass(self, batch: Batch, keys: tuple[Key, ...], kind: str) -> None:
        if not keys:  # not of an active block
            if batch.target is not batch.source:
                torch._foreach_copy_(batch.target, batch.source)
            return
        seeds = [key.seed if isinstance(key, BlockSeed) else key for key in keys]
        scales = [batch.terms[key] for key in keys]
        options: dict[str, Any] = {
            "decay": batch.decay,
            "streams": batch.indices,
            "distribution": self.distribution,
            "rounding": batch.rounding,
            "out": None if batch.target is batch.source else batch.target,
        }
        if kind == "all":
            perturb_(batch.source, seeds, scales, **options)  # type: ignore[arg-type]
            return
        if kind == "mask":
            options["masks"] = [self.masks[i] for i in batch.indices]
        else:
            options["thresholds"] = [self.thresholds[i] for i in batch.indices]
        perturb_masked_(batch.source, seeds, scales, **options)  # type: ignore[arg-type]


class SparseMeZO(ZerothOrderOptimizer):
    r"""MeZO on the small weights only, on the elements of given masks, or on some blocks at a time.

    .. math::
        M = \{ j : |\theta_j| \le h \}, \qquad
        \hat z_j = z_j \text{ for } j \in M, \text{ else } 0, \qquad
        g = \frac{\ell(\theta + \epsilon \hat z) - \ell(\theta - \epsilon \hat z)}{2\epsilon}, \qquad
        \theta \leftarrow \theta - \eta g \hat z

    h is a threshold a tensor, under which the 1 - `sparsity` smallest of its weights lie. M is a
    function of the committed weights, the same in a step's probe, flip and update: with
    `restore="exact"` and `"snapshot"` every pass starts from the committed weights and compares inside the
    kernel, no mask is stored. In place the displaced weights do not tell, so boolean masks are kept, one
    byte a weight, and drawn anew at each step.

    Args:
        params: a module, `parameters()`, `named_parameters()` or param groups.
        lr, eps: \eta and \epsilon.
        sparsity: fraction of each tensor's weights that is frozen, the largest; in [0, 1). 0 moves all.
            A param group may override it: 0 for norms and biases, whose weights are all alike.
        refresh: thresholds are found at the first step and, with a number here, every `refresh` steps
            again. The mask follows the weights at every step in either case.
        masks: in place of thresholds: name of a parameter (or its ordinal among the trainables) to a
            boolean tensor of its shape, True where it moves. Parameters not named move as a whole.
        blocks: a `BlockSchedule`; both kinds of mask combine with it.
        num_queries, one_sided, distribution, restore, lazy, rounding, seed, module: see `MeZO`. "auto" is
            "exact" where there is a module that is not compiled; else in place for fp32 and float64, and
            "snapshot" for 16 bits. Without thresholds it is as for `MeZO`.
        weight_decay: decoupled decay of the weights that move.

    `lr`, `eps`, `sparsity` and `weight_decay` may differ between param groups.

    Returns (of `step`): as `MeZO`.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range; it is named.

    Cost: as `MeZO`; in place one pass and one byte a weight more for the masks. Finding thresholds reads
        the weights twice, in chunks.

    Source: Liu et al. 2024, "Sparse MeZO" (arXiv:2402.15751), Algorithm 1; sparsity 0.75 as in Yang et al.
        2024 (arXiv:2406.18060).

    Example:
        >>> optimizer = zokern.optim.SparseMeZO(model, lr=1e-6, sparsity=0.75)
        >>> layers = zokern.optim.BlockSchedule(active=4, order="random")
        >>> optimizer = zokern.optim.SparseMeZO(model, lr=1e-6, sparsity=0.0, blocks=layers)
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        lr: float = 1e-6,
        eps: float = 1e-3,
        *,
        sparsity: float = 0.75,
        refresh: int | None = None,
        masks: Mapping[str | int, Tensor] | None = None,
        blocks: BlockSchedule | None = None,
        num_queries: int | QuerySchedule = 1,
        one_sided: bool = False,
        weight_decay: float = 0.0,
        distribution: str = "gaussian",
        restore: str = "auto",
        lazy: bool = False,
        rounding: str = "stochastic",
        seed: int = 0,
        module: nn.Module | None = None,
    ) -> None:
        if refresh is not None:
            check_number("refresh", refresh, 1, integer=True)
        self.refresh = refresh
        self.blocks = blocks
        self.one_sided = one_sided
        self.masks = None if masks is None else dict(masks)
        self._found = False
        self._masked = _Masked(distribution)
        if isinstance(params, nn.Module):
            module = params
        if restore == "auto" and masks is None and sparsity and module is not None and takes_hooks(module):
            restore = "exact"
        super().__init__(
            params,
            {"lr": lr, "sparsity": sparsity, "weight_decay": weight_decay},
            eps=eps,
            seed=seed,
            lazy=lazy,
            restore=restore,
            rounding=rounding,
            distribution=distribution,
            num_queries=num_queries,
            module=module,
            apply=self._masked,
        )
        self._check_masks()
        self._number_blocks()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; thresholds are found anew at the next step."""
        check_number("sparsity", {**self.defaults, **param_group}["sparsity"], 0.0, high=1.0)
        super().add_param_group(param_group)
        self._found = False
        if self._engine is not None:
            self._number_blocks()

    def step(self, closure: Closure) -> float:  # type: ignore[override]
        """One step. `closure` returns the loss and may be called any number of times."""
        self._choose()
        loss, deltas = self.spsa(closure, self.one_sided)
        groups = self.param_groups
        moves = {
            key: [-group["lr"] * delta / (len(deltas) * group["eps"]) for group in groups]
            for key, delta in deltas.items()
        }
        self.commit(moves, [1.0 - group["lr"] * group["weight_decay"] for group in groups])
        return loss

    def direction(self, seed: int) -> Key:
        """z of the seed, in the active blocks."""
        return seed if self.blocks is None else BlockSeed(seed, self.active)

    @property
    def active(self) -> tuple[int, ...]:
        """The blocks that the next step moves; without `blocks`, none."""
        if self.blocks is None:
            return ()
        return self.blocks.choose(len(set(self._masked.block)), self.steps)

    @property
    def thresholds(self) -> dict[str, float]:
        """Name of a parameter to its present threshold."""
        names = self.engine.trainables.names
        return {names[i]: value for i, value in self._masked.thresholds.items()}

    # -- inside -------------------------------------------------------------------------------

    def _choose(self) -> None:
        """Brings thresholds and stored masks up to date, before the step's first move."""
        if self.blocks is not None and any(group["weight_decay"] for group in self.param_groups):
            self.engine.land()  # a pending decay is of the last step's blocks alone
        if self.masks is not None:
            return
        due = self.refresh is not None and self.steps % self.refresh == 0
        if due or not self._found:
            self._find_thresholds()
        if self.restore == "inplace" and self._masked.thresholds:
            self._draw_masks()

    def _find_thresholds(self) -> None:
        self.engine.land()
        trainables, found = self.engine.trainables, self._masked.thresholds
        found.clear()
        for i, (p, g) in enumerate(zip(trainables.params, trainables.group)):
            sparsity = self.param_groups[g]["sparsity"]
            if sparsity and p.numel():
                found[i] = threshold(p, sparsity)
        self._found = True

    def _draw_masks(self) -> None:
        """The masks of the committed weights, which displaced weights do not tell."""
        self.engine.land()
        masks = self._masked.masks
        for i, h in self._masked.thresholds.items():
            p = self.trainables[i]
            if i not in masks or masks[i].shape != p.shape:
                masks[i] = torch.empty_like(p, dtype=torch.bool, requires_grad=False)
            for mask, value in zip(_pieces(masks[i]), _pieces(p)):
                torch.le(value.abs(), h, out=mask)

    def _number_blocks(self) -> None:
        if self.blocks is not None:
            trainables = self.engine.trainables
            self._masked.block = self.blocks.blocks(trainables.names, trainables.group)

    def _check_masks(self) -> None:
        """Takes the given masks over, by ordinal."""
        if self.masks is None:
            return
        trainables = self.engine.trainables
        ordinals: dict[str | int, int] = {name: i for i, name in enumerate(trainables.names)}
        ordinals |= {i: i for i in range(len(trainables.params))}
        for key, mask in self.masks.items():
            if key not in ordinals:
                raise ValueError(f"masks[{key!r}] names no trainable parameter")
            i = ordinals[key]
            p = trainables.params[i]
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                found = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise TypeError(f"masks[{key!r}] must be a boolean tensor, got {found}")
            if mask.shape != p.shape:
                raise ValueError(f"masks[{key!r}] has shape {tuple(mask.shape)}, not {tuple(p.shape)}")
            self._masked.masks[i] = mask.to(p.device)

    def _method_state(self) -> dict[str, Any]:
        return {"found": self._found, "thresholds": dict(self._masked.thresholds)}

    def _load_method_state(self, state: dict[str, Any]) -> None:
        self._found = state["found"]
        self._masked.thresholds.clear()
        self._masked.thresholds.update(state["thresholds"])


def _pieces(tensor: Tensor) -> Iterable[Tensor]:
    """Views of at most `CHUNK` elements where the memory is dense, else the whole."""
    dense = tensor.detach()
    if not dense.is_contiguous():
        return [dense]
    return dense.view(-1).split(CHUNK)


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
