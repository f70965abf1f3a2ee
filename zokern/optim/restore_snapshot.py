"""`restore="snapshot"`: a copy of the trainables is kept, and perturbed values written over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from .engine import Engine, Trainables, same_kind
from .moves import Affine, Apply, Point, uninterrupted


class Snapshot(Engine):
    """Keeps a copy of its trainables and writes perturbed values over the parameters. Restores bit
    for bit. The copy is refreshed at a step's first probe, so writes between steps count."""

    mode = "snapshot"

    def __init__(
        self, trainables: Trainables, apply: Apply, rounding: str, indices: Sequence[int] | None = None
    ) -> None:
        super().__init__(trainables, apply, rounding, indices)
        self.held: dict[int, Tensor] = {}
        self.displaced = False

    @property
    def pending(self) -> bool:
        return self.displaced or super().pending

    def evaluate(self, run: Callable[[], float], offsets: Point) -> float:
        self.show(offsets)
        return run()

    def show(self, offsets: Point) -> None:
        """Puts committed + offset into the parameters."""
        self.revisit(offsets)
        if not self.displaced:
            if not any(any(o.values()) for o in offsets):
                return
            with uninterrupted():
                self._copy(self.indices, hold=True)
                self.displaced = True
        self._walk([Affine(1.0, o) for o in offsets], self.held, self.trainables.params, self.apply)

    def revisit(self, offsets: Point) -> None:
        """Applies what is pending to the committed weights, wherever they are."""
        if super().pending:
            base = self.held if self.displaced else self.trainables.params
            self._carry_out(base, base, self.apply)

    def update(self, apply: Apply, merge: bool = False) -> None:
        params = self.trainables.params
        with uninterrupted():
            self._carry_out(self.held if self.displaced else params, params, apply, merge)
            self.displaced = False

    def land(self) -> None:
        if self.displaced and not super().pending:
            with uninterrupted():
                self._copy(self.indices, hold=False)
                self.displaced = False
        super().land()

    def add(self, indices: Iterable[int]) -> None:
        """Looks after more trainables, whose weights are in place now."""
        added = sorted(set(indices) - set(self.indices))
        with uninterrupted():
            if self.displaced:
                self._copy(added, hold=True)
            self.indices = sorted([*self.indices, *added])

    def _copy(self, indices: Sequence[int], hold: bool) -> None:
        """From the parameters to the kept copies, or back."""
        params = {i: self.trainables.params[i] for i in indices}
        for i, p in params.items():
            kept = self.held.get(i)
            if kept is None or not same_kind(kept, p):
                with torch.inference_mode(False):
                    self.held[i] = torch.empty_like(p, requires_grad=False)
        there, here = list(params.values()), [self.held[i] for i in params]
        if here:
            torch._foreach_copy_(here if hold else there, there if hold else here)
