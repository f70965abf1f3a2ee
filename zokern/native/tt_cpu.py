"""Tensor-train layers on the CPU kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..call.codes import ACTIVATION
from ..call.tt_layers import TTLayer
from ..call.tt_noise import TTNoise
from ..call.tt_plan import TTPlan
from ..call.tt_prepared import LayersKernel
from . import large
from ._isa import isa_code, machine
from ._layers import layer_tuples, pack_layer, pack_noise, pack_rows, row_ops


class Bound:
    """What `LayersKernel.bind` makes of dense layers. `native` has the bindings."""

    def __init__(self, native: Any, layers: Sequence[TTLayer], activation: str, scale: float) -> None:
        self._make = native.TtCall
        self._packed = [pack_layer(layer) for layer in layers]
        self._arguments = (scale, ACTIVATION[activation], isa_code())

    def call(self, plans: Sequence[TTPlan], offsets: Sequence[int]) -> Any:
        return self._make(layer_tuples(self._packed, plans, offsets), *self._arguments)

    @staticmethod
    def run_strided(call: Any, x: Tensor, out: Tensor, queries: int | None, noise: TTNoise | None) -> None:
        call.run_strided(*pack_rows(x, out, queries), torch.get_num_threads(), *pack_noise(noise))

    @staticmethod
    def new_rows(x: Tensor, width: int) -> Tensor:
        return large.empty((*x.shape[:-1], width), x.dtype)


def tt_ops(native: Any) -> dict[str, Callable[..., None]]:
    """The backend's entries. `native` has the functions of the bindings."""

    def bind(layers: Sequence[TTLayer], activation: str, scale: float) -> Bound:
        return Bound(native, layers, activation, scale)

    def run(
        x: Tensor, out: Tensor, layers: Sequence[TTLayer], activation: str, scale: float,
        queries: int | None, noise: TTNoise | None,
    ) -> None:  # fmt: skip
        dense = [layer.made_dense() for layer in layers]  # kept alive for the call
        bound = bind(dense, activation, scale)
        call = bound.call([layer.plan for layer in layers], () if noise is None else noise.positions)
        bound.run_strided(call, x, out, queries, noise)

    def tt_halves(layer: TTLayer, left: Tensor, right: Tensor) -> None:
        """Backend entry: fills A and B."""
        dense, plan = layer.made_dense(), layer.plan
        shape = (plan.modes, plan.ranks, plan.split, 0, plan.split)
        packed = (*shape, *pack_layer(dense), [])
        native.cpu_tt_halves(
            packed, left.data_ptr(), right.data_ptr(), layer.queries or 1, *machine(left.device)
        )

    rows = {op: LayersKernel(bind, entry) for op, entry in row_ops(run).items()}
    return {"tt_halves": tt_halves, **rows}
