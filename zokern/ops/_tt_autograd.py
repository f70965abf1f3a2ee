"""Backward of the tensor-train ops: recomputes the halves, keeps x, cores and biases only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._library import LIBRARY
from ._tt_checks import TTLayer, check_cores, with_bias

# groups, seeds, scales, offsets, stream, distribution; PyTorch takes an empty list for one of tensors
_NO_GRADS: tuple = (None, [], [], [], None, None)


def _matrix(x: Tensor, layer: TTLayer) -> Tensor:
    """x in the cores' dtype as `[rows, n]`, or `[P, rows, n]` where the cores have queries."""
    rows = x.reshape(-1, x.shape[-1]).to(layer.cores[0].dtype)
    return rows if layer.queries is None else rows.unflatten(0, (layer.queries, -1))


def _refuse_noise(seeds: list[int]) -> None:
    if seeds:
        raise RuntimeError("noise is for forward passes only; call under torch.no_grad()")


def _halves_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    cores, ctx.split = inputs
    ctx.save_for_backward(*cores)


def _halves_backward(ctx: Any, grad_a: Tensor, grad_b: Tensor) -> tuple:
    from ..reference import tt as reference

    layer = check_cores(ctx.saved_tensors, ctx.split, "cores", "split")
    return reference.halves_backward(layer, grad_a, grad_b), None


def _linear_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    x, cores, bias, ctx.split, _, seeds, *_ = inputs
    _refuse_noise(seeds)
    ctx.save_for_backward(x, bias, *cores)


def _linear_backward(ctx: Any, grad: Tensor) -> tuple:
    from ..reference import tt as reference

    x, bias, *cores = ctx.saved_tensors
    layer = with_bias(check_cores(cores, ctx.split, "cores", "split"), bias, "bias")
    grad_x, grads, grad_bias = reference.linear_backward(_matrix(x, layer), layer, _matrix(grad, layer))
    return grad_x.reshape(x.shape).to(x.dtype), grads, grad_bias, None, *_NO_GRADS


def _adapter_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    x, down, up, down_bias, up_bias, *ctx.splits = inputs[:7]
    ctx.activation, ctx.scale, seeds = inputs[7], inputs[8], inputs[10]
    _refuse_noise(seeds)
    ctx.count = len(down)
    ctx.save_for_backward(x, down_bias, up_bias, *down, *up)


def _adapter_backward(ctx: Any, grad: Tensor) -> tuple:
    from ..reference import tt as reference

    x, down_bias, up_bias, *cores = ctx.saved_tensors
    down, up = cores[: ctx.count], cores[ctx.count :]
    first = with_bias(check_cores(down, ctx.splits[0], "down", "split"), down_bias, "down_bias")
    second = with_bias(check_cores(up, ctx.splits[1], "up", "split"), up_bias, "up_bias")
    grad_x, down_grads, grad_down_bias, up_grads, grad_up_bias = reference.adapter_backward(
        _matrix(x, first), first, second, ctx.activation, ctx.scale, _matrix(grad, first)
    )
    return (
        grad_x.reshape(x.shape).to(x.dtype), down_grads, up_grads, grad_down_bias, grad_up_bias,
        None, None, None, None, *_NO_GRADS,
    )  # fmt: skip


def register() -> None:
    """Ties the formulas to the ops, which are defined by then."""
    for op, backward, setup in (
        ("tt_halves", _halves_backward, _halves_setup),
        ("tt_linear", _linear_backward, _linear_setup),
        ("tt_adapter", _adapter_backward, _adapter_setup),
    ):
        torch.library.register_autograd(f"zokern::{op}", backward, setup_context=setup, lib=LIBRARY)
