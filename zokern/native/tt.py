"""Tensor-train layers on the CPU kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..ops._tt_checks import TTLayer, TTNoise
from ..ops.tt_plan import TTPlan
from . import cpu, large
from ._pack import DISTRIBUTION, DTYPE
from ._tt_pack import ACTIVATION, layer_tuples, pack_layer

_C = cpu._C


def make_call(
    packed: Sequence[tuple], plans: Sequence[TTPlan], offsets: Sequence[int], activation: int,
    scale: float, isa: int,
) -> Any:  # fmt: skip
    """The prepared call of one layer, or of an adapter's two."""
    return _C.TtCall(layer_tuples(packed, plans, offsets), scale, activation, isa)


def run_strided(call: Any, x: Tensor, out: Tensor, queries: int | None, noise: TTNoise | None) -> None:
    """Runs a prepared call on matrices of rows."""
    count = 1 if queries is None else queries
    seeds, scales, stream, distribution = (
        ((), (), 0, 0)
        if noise is None
        else (noise.seeds, noise.scales, noise.stream, DISTRIBUTION[noise.distribution])
    )
    call.run_strided(
        x.data_ptr(), out.data_ptr(), x.shape[0] // count, count, x.stride(0), out.stride(0),
        DTYPE[x.dtype], DTYPE[out.dtype], torch.get_num_threads(), seeds, scales, stream, distribution,
    )  # fmt: skip


def new_rows(x: Tensor, width: int) -> Tensor:
    """An empty y for x: the same leading sizes and dtype."""
    return large.empty((*x.shape[:-1], width), x.dtype)


def _isa() -> int:
    return backends.ISAS.index(cpu.current_isa())


def _run(
    x: Tensor, out: Tensor, layers: Sequence[TTLayer], activation: str, scale: float,
    queries: int | None, noise: TTNoise | None,
) -> None:  # fmt: skip
    dense = [layer.made_dense() for layer in layers]  # kept alive for the call
    plans = [layer.plan for layer in layers]
    offsets = () if noise is None else noise.positions
    packed = [pack_layer(layer) for layer in dense]
    call = make_call(packed, plans, offsets, ACTIVATION[activation], scale, _isa())
    run_strided(call, x, out, queries, noise)


def tt_halves(layer: TTLayer, left: Tensor, right: Tensor) -> None:
    """Backend entry: fills A and B."""
    dense, plan = layer.made_dense(), layer.plan
    shape = (plan.modes, plan.ranks, plan.split, 0, plan.split)
    _C.cpu_tt_halves(
        (*shape, *pack_layer(dense), []), left.data_ptr(), right.data_ptr(), layer.queries or 1,
        _isa(), torch.get_num_threads(),
    )  # fmt: skip


def tt_linear(x: Tensor, out: Tensor, layer: TTLayer, queries: int | None, noise: TTNoise | None) -> None:
    """Backend entry; arguments as checked and normalised by `zokern.ops.tt`."""
    _run(x, out, (layer,), "identity", 1.0, queries, noise)


def tt_adapter(
    x: Tensor, out: Tensor, down: TTLayer, up: TTLayer, activation: str, scale: float,
    queries: int | None, noise: TTNoise | None,
) -> None:  # fmt: skip
    """Backend entry; arguments as checked and normalised by `zokern.ops.tt`."""
    _run(x, out, (down, up), activation, scale, queries, noise)


OPS = {"tt_halves": tt_halves, "tt_linear": tt_linear, "tt_adapter": tt_adapter}
