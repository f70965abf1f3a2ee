"""Tensor-train layers on the CUDA kernels: two launches a call, on PyTorch's current stream.

The first contracts the groups of all layers and queries side by side (with noise it makes the perturbed
cores too), the second takes tiles of rows through the layers. Contracted groups lie in a workspace of a
few KB a query that `torch.empty` takes from PyTorch's allocator: no synchronisation, and a captured
graph keeps it. Seeds, scales and pointers travel in the launches' parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..call.codes import ACTIVATION
from ..call.tt_layers import TTLayer
from ..call.tt_noise import TTNoise
from ._layers import layer_tuples, pack_layer, pack_noise, pack_rows, row_ops
from ._lists import Machine


def packed_call(
    x: Tensor, out: Tensor, layers: Sequence[TTLayer], activation: str, scale: float,
    queries: int | None, noise: TTNoise | None,
) -> tuple:  # fmt: skip
    """(layers, scale, activation, rows, noise) as the bindings take them. `layers` are dense."""
    offsets = () if noise is None else noise.positions
    tuples = layer_tuples([pack_layer(layer) for layer in layers], [layer.plan for layer in layers], offsets)
    return tuples, scale, ACTIVATION[activation], pack_rows(x, out, queries), pack_noise(noise)


def tt_ops(native: Any, machine: Machine) -> dict[str, Callable[..., None]]:
    """The backend's entries. `native` has the functions of the bindings."""

    def run(x: Tensor, out: Tensor, layers: Sequence[TTLayer], *arguments: Any) -> None:
        dense = [layer.planned_for_gpu().made_dense() for layer in layers]  # kept alive for the call
        call = packed_call(x, out, dense, *arguments)
        floats = native.cuda_tt_workspace(*call)
        workspace = torch.empty(floats, dtype=torch.float32, device=x.device)
        native.cuda_tt_rows(*call, workspace.data_ptr(), *machine(x.device))

    def tt_halves(layer: TTLayer, left: Tensor, right: Tensor) -> None:
        """Backend entry: fills A and B."""
        dense = layer.made_dense()
        (packed,), queries = layer_tuples([pack_layer(dense)], [layer.plan], ()), layer.queries or 1
        floats = native.cuda_tt_halves_workspace(packed, queries)
        workspace = torch.empty(floats, dtype=torch.float32, device=left.device)
        native.cuda_tt_halves(
            packed, left.data_ptr(), right.data_ptr(), queries, workspace.data_ptr(), *machine(left.device)
        )

    return {"tt_halves": tt_halves, **row_ops(run)}
