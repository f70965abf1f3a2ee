"""`restore="inplace"`: the weights themselves are moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .engine import Engine
from .moves import IDENTITY, Affine, Apply, Point, uninterrupted


class InPlace(Engine):
    """Moves the weights themselves. No extra memory; restored to rounding (fp32 drifts by
    6e-8 * sqrt(steps) relative)."""

    mode = "inplace"

    def evaluate(self, run: Callable[[], float], offsets: Point) -> float:
        self.revisit(offsets)
        return run()

    def revisit(self, offsets: Point) -> None:
        back = [Affine(1.0, {key: -value for key, value in o.items()}) for o in offsets]
        self._move([m.plus(o) for m, o in zip(self.map, offsets)], back, self.apply, merge=True)

    def update(self, apply: Apply, merge: bool = False) -> None:
        self._move(self.map, [IDENTITY] * len(self.map), apply, merge)

    def _move(self, moves: Sequence[Affine], after: Sequence[Affine], apply: Apply, merge: bool) -> None:
        params = self.trainables.params

        def moved(group: int) -> None:
            self.map[group] = after[group]

        self.map = list(self.map)
        with uninterrupted():
            self._walk(moves, params, params, apply, merge=merge, moved=moved)
            self.map = list(after)  # of groups without members too
