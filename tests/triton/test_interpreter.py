"""Triton's interpreter, which keeps its place in the grid in one global."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from zokern.triton_kernels.perturb import BLOCK

import zokern
from zokern import backends


class Lands:
    """As an optimizer in a cycle: what frees it runs a kernel."""

    def __init__(self, done: list[bool]) -> None:
        self.cycle = self
        weakref.finalize(self, Lands.land, done)

    @staticmethod
    def land(done: list[bool]) -> None:
        zokern.perturb_([torch.zeros(3)], 1, 1.0)
        done.append(True)


@pytest.mark.skipif(
    backends.unavailable_reason("triton", "cpu") is not None,
    reason="Triton's interpreter serves no CPU tensor here",
)
def test_what_a_collection_frees_runs_no_kernel_inside_another(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.interpreter import interpreter_builder

    done: list[bool] = []
    went_on = interpreter_builder.set_grid_idx
    collections = []

    def set_grid_idx(x: int, y: int, z: int) -> Any:
        if gc.isenabled():  # then one may come at any allocation
            gc.collect()
        collections.append(gc.isenabled())
        return went_on(x, y, z)

    p, expected = (torch.zeros(3 * BLOCK) for _ in range(2))
    with zokern.use_backend("reference"):
        zokern.perturb_([expected], 7, 0.5)
    with zokern.use_backend("triton"):
        monkeypatch.setattr(interpreter_builder, "set_grid_idx", set_grid_idx)
        threshold = gc.get_threshold()
        gc.set_threshold(0)  # none but those above
        try:
            Lands(done)
            zokern.perturb_([p], 7, 0.5)
        finally:
            gc.set_threshold(*threshold)
        assert len(collections) >= 3 and gc.isenabled()
        gc.collect()
    assert torch.equal(p, expected)
    assert done == [True]
