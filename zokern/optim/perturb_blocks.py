"""Block coordinates: some blocks of the trainables a step, the others left alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..call.checks import check_choice, check_integer, check_seed, kept
from ..random import derive_seed
from .engine import Trainables
from .moves import Direction, Pass, Terms, seed_of
from .perturbation import Directions, FullNoise, Perturbation, StepStart


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

    Raises ValueError where an argument is out of range.

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
        kept(self, "active", check_integer("active", self.active, 1))
        kept(self, "period", check_integer("period", self.period, 1))
        kept(self, "seed", check_seed("seed", self.seed))
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
        keys: Sequence[Hashable]
        if callable(self.by):
            keys = [self.by(name) for name in names]
        elif self.by in ("group", "tensor"):
            keys = groups if self.by == "group" else range(len(names))
        else:
            found = [re.match(r"(?:.*?\.)?\d+(?=\.|$)", name) for name in names]
            keys = [match.group() if match else "" for match in found]
        numbers = {key: n for n, key in enumerate(dict.fromkeys(keys))}
        return [numbers[key] for key in keys]


@dataclass(frozen=True)
class Blocks(Perturbation):
    """Perturbs and updates some blocks of the trainables a step.

    Where a method keeps a choice for several steps (`MeZOSVRG`, for an interval), the schedule counts
    those in place of steps.

    Args:
        schedule: which blocks, when.
        of: what z is within them; default the method's own (full noise, or ZO-AdaMU's momentum).

    Source: see `BlockSchedule`.

    Example:
        >>> layers = BlockSchedule(active=4, order="random")
        >>> optimizer = zokern.optim.ZOAdam(model, lr=1e-4, perturbation=Blocks(layers))
    """

    schedule: BlockSchedule = BlockSchedule()
    of: Perturbation | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, BlockSchedule):
            raise TypeError(f"schedule must be a BlockSchedule, got {self.schedule!r}")
        if self.of is not None and not isinstance(self.of, Perturbation):
            raise TypeError(f"of must be a Perturbation, got {self.of!r}")

    @property
    def reads_momentum(self) -> bool:
        return self.of is not None and self.of.reads_momentum

    def bind(self, distribution: str) -> Directions:
        return BlockDirections(self.schedule, (self.of or FullNoise()).bind(distribution))


@dataclass(frozen=True)
class BlockDirection:
    """`along` in the active blocks, zero elsewhere."""

    along: Direction
    active: tuple[int, ...]

    @property
    def seed(self) -> int:
        return seed_of(self.along)


class BlockDirections(Directions):
    """The directions `of` another perturbation, in some blocks."""

    partial = True

    def __init__(self, schedule: BlockSchedule, of: Directions) -> None:
        self.schedule, self.of = schedule, of
        self.whole, self.committed = of.whole, of.committed
        self.masks, self.draws_masks = of.masks, of.draws_masks
        self.block: list[int] = []  # of each trainable
        self.active: tuple[int, ...] = ()  # in the present step

    def attach(self, trainables: Trainables) -> None:
        self.of.attach(trainables)
        nameless = all(re.fullmatch(r"(group \d+ )?params\[\d+\]", name) for name in trainables.names)
        if self.schedule.by == "layer" and nameless:
            raise ValueError(
                "by='layer' reads layers from parameter names, and bare parameters have none: pass the model "
                "or named_parameters(), or a schedule with by='tensor' or 'group'"
            )
        self.block = self.schedule.blocks(trainables.names, trainables.group)

    def begin(self, start: StepStart) -> None:
        if any(group["weight_decay"] for group in start.param_groups):
            start.flush()  # a pending decay is of the last step's blocks alone
        self.active = self.choose(start.turn)
        self.of.begin(start)

    def choose(self, turn: int) -> tuple[int, ...]:
        """The blocks of a turn."""
        return self.schedule.choose(len(set(self.block)), turn)

    def direction(self, seed: int) -> BlockDirection:
        return BlockDirection(self.of.direction(seed), self.active)

    def moves(self, direction: Direction, i: int) -> bool:
        if isinstance(direction, BlockDirection):
            return self.block[i] in direction.active and self.of.moves(direction.along, i)
        return self.of.moves(direction, i)

    def apply(self, work: Pass) -> None:
        if work.is_identity():
            return
        parts = work.split(tuple(key for key in work.terms if self.moves(key, i)) for i in work.indices)
        for moving, part in parts.items():
            if moving:
                self.of.apply(replace(part, terms=_along(work.terms, moving)))
            elif part.target is not part.source:  # not of an active block
                torch._foreach_copy_(part.target, part.source)

    def to_plain(self, direction: Direction) -> Any:
        if not isinstance(direction, BlockDirection):
            return self.of.to_plain(direction)
        return (self.of.to_plain(direction.along), direction.active)

    def from_plain(self, plain: Any) -> Direction:
        if not isinstance(plain, tuple):
            return self.of.from_plain(plain)
        return BlockDirection(self.of.from_plain(plain[0]), tuple(plain[1]))

    def state(self) -> dict[str, Any]:
        return {"active": self.active, **self.of.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.active = tuple(state.get("active", ()))
        self.of.load_state(state)


def _along(terms: Terms, moving: Sequence[Direction]) -> Terms:
    """The terms of some directions, without their blocks."""
    total: Terms = {}
    for key in moving:
        along = key.along if isinstance(key, BlockDirection) else key
        total[along] = total.get(along, 0.0) + terms[key]
    return total
