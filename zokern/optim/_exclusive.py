"""One user of an optimizer at a time: no other thread, and not its own closure."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Exclusive:
    """Who is in a step of an optimizer, and whether its closure runs.

    Within a closure weights are displaced: what lands, saves, loads or moves them there would take
    perturbed weights for the committed ones, or lose the way back.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner  # the optimizer's class, for messages
        self._holder: dict[str, int] = {}  # the thread in a step; its methods are atomic
        self._within = self._in_closure = False  # changed by the holder alone

    @contextlib.contextmanager
    def use(self, what: str, nested: bool = False) -> Iterator[None]:
        """Within it no other thread may use the optimizer. `nested`: allowed within a step of this thread,
        outside its closure.

        Raises:
            RuntimeError: called from the closure, within a step, or while another thread is in one.
        """
        me = threading.get_ident()
        if self._holder.setdefault("thread", me) != me:
            raise RuntimeError(
                f"{what} was called while another thread is in a step of the same {self.owner}: steps of "
                f"one optimizer move the same weights, one after the other"
            )
        if self._within:
            self._check_nested(what, nested)
            yield
            return
        try:
            self._within = True
            yield
        finally:
            self._within = False
            self._holder.clear()

    def _check_nested(self, what: str, allowed: bool) -> None:
        if self._in_closure:
            raise RuntimeError(
                f"{what} was called inside the closure of a step of the same {self.owner}, where the "
                f"weights are perturbed; call it after step has returned"
            )
        if not allowed:
            raise RuntimeError(f"{what} was called within a step of the same {self.owner}; call it after")

    @contextlib.contextmanager
    def closure(self) -> Iterator[None]:
        """Around a call of the closure."""
        try:
            self._in_closure = True
            yield
        finally:
            self._in_closure = False
