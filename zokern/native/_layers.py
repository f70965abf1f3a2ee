"""Tensor-train layers as the C interface takes them, on the CPU and on a device."""

from __future__ import annotations

from collections.abc import Sequence

from ..call.codes import DISTRIBUTION
from ..call.tt_layers import TTLayer
from ..call.tt_noise import FIXED, TTNoise
from ..call.tt_plan import TTPlan

_FIXED_WORD = (1 << 64) - 1  # ZK_TT_FIXED


def pack_layer(layer: TTLayer) -> tuple:
    """One dense layer's pointers: cores, their query strides, bias, its query stride."""
    strides = [core.stride(0) if layer.batched else 0 for core in layer.cores]
    bias = layer.bias
    return (
        [core.data_ptr() for core in layer.cores],
        strides,
        0 if bias is None else bias.data_ptr(),
        bias.stride(0) if bias is not None and layer.bias_batched else 0,
    )


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
