"""Tensor-train layers as the C interface takes them, on the CPU and on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..call.codes import DISTRIBUTION, DTYPE
from ..call.tt_layers import TTLayer
from ..call.tt_noise import FIXED, TTNoise
from ..call.tt_plan import TTPlan

_FIXED_WORD = (1 << 64) - 1  # ZK_TT_FIXED


def pack_layer(layer: TTLayer) -> tuple:
    """One dense layer's pointers: cores, their query strides, bias, its query stride."""
    cores = [core.data_ptr() for core in layer.cores]
    strides = [core.stride(0) if layer.batched else 0 for core in layer.cores]
    if layer.bias is None:
        return cores, strides, 0, 0
    return cores, strides, layer.bias.data_ptr(), layer.bias.stride(0) if layer.bias_batched else 0


def layer_tuples(packed: Sequence[tuple], plans: Sequence[TTPlan], offsets: Sequence[int]) -> list[tuple]:
    """Layers as the bindings take them; `offsets` are those of a noise, or none."""
    words = [offset if offset != FIXED else _FIXED_WORD for offset in offsets]
    layers, first = [], 0
    for pointers, plan in zip(packed, plans):
        count = len(plan.modes) + (pointers[2] != 0)
        shape = (plan.modes, plan.ranks, plan.split, plan.in_cut, plan.out_cut)
        layers.append((*shape, *pointers, words[first : first + count]))
        first += count
    return layers


def pack_noise(noise: TTNoise | None) -> tuple:
    """(seeds, scales, stream, distribution); no seeds: no noise."""
    if noise is None:
        return (), (), 0, 0
    return noise.seeds, noise.scales, noise.stream, DISTRIBUTION[noise.distribution]


def pack_rows(x: Tensor, out: Tensor, queries: int | None) -> tuple:
    """Matrices of rows: addresses, rows a query, queries, strides, dtypes."""
    count = queries or 1
    return (
        x.data_ptr(), out.data_ptr(), x.shape[0] // count, count, x.stride(0), out.stride(0),
        DTYPE[x.dtype], DTYPE[out.dtype],
    )  # fmt: skip


def row_ops(run: Callable[..., None]) -> dict[str, Callable[..., None]]:
    """A backend's entries by its run(x, out, layers, activation, scale, queries, noise)."""

    def tt_linear(x: Tensor, out: Tensor, layer: TTLayer, *call: Any) -> None:
        run(x, out, (layer,), "identity", 1.0, *call)

    def tt_adapter(x: Tensor, out: Tensor, down: TTLayer, up: TTLayer, *call: Any) -> None:
        run(x, out, (down, up), *call)

    return {"tt_linear": tt_linear, "tt_adapter": tt_adapter}
