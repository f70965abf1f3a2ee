"""Tensor-train layers in plain PyTorch: forward, backward, and the noise made explicit.

    y = (x A) B + bias        A [in, r] and B [r, out], the halves of the train
    adapter: y = x + scale * up(activation(down(x)))

Arithmetic is in the cores' dtype (fp32, or float64 throughout), whatever x's; y is rounded once. The
grouping of a plan changes the order of sums only, so the reference always takes the bipartite form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..call.tt_layers import TTLayer
from ..call.tt_noise import FIXED, TTNoise
from .perturb import perturb_

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda h: h,
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def _left_products(cores: Sequence[Tensor]) -> list[Tensor]:
    """`[..., k_1 .. k_i, r_i]` for every i, grown from the rank-1 boundary."""
    products = [cores[0].squeeze(-3)]
    for core in cores[1:]:
        grown = products[-1] @ core.flatten(-2)
        products.append(grown.reshape(*core.shape[:-3], -1, core.shape[-1]))
    return products


def _right_products(cores: Sequence[Tensor]) -> list[Tensor]:
    """`[..., r_{i-1}, k_i .. k_n]` for every i, in the order of the cores."""
    products = [cores[-1].squeeze(-1)]
    for core in reversed(cores[:-1]):
        grown = core.flatten(-3, -2) @ products[0]
        products.insert(0, grown.reshape(*core.shape[:-2], -1))
    return products


def halves(layer: TTLayer) -> tuple[Tensor, Tensor]:
    """A `[..., in, r]` and B `[..., r, out]`."""
    split = layer.plan.split
    return _left_products(layer.cores[:split])[-1], _right_products(layer.cores[split:])[0]


def tt_halves_composed(layer: TTLayer) -> tuple[Tensor, Tensor]:
    """`halves`, which PyTorch differentiates itself, in any mode and order."""
    return halves(layer)


def tt_halves_backward(layer: TTLayer, grad_a: Tensor, grad_b: Tensor) -> list[Tensor]:
    """Gradients of the cores from those of A and B."""
    split, cores = layer.plan.split, layer.cores
    grads = []
    left, right = cores[:split], cores[split:]
    lefts, rights = _left_products(left), _right_products(right)
    grad = grad_a
    for i in range(split - 1, 0, -1):
        grown = grad.reshape(*lefts[i - 1].shape[:-1], -1)  # [..., k_1 .. k_{i-1}, k_i r_i]
        grads.append((lefts[i - 1].mT @ grown).reshape(left[i].shape))
        grad = grown @ left[i].flatten(-2).mT
    grads.append(grad.reshape(left[0].shape))
    grads.reverse()
    grad = grad_b
    for i in range(len(right) - 1):
        n = rights[i + 1].shape[-1]
        grown = grad.reshape(*grad.shape[:-2], -1, n)  # [..., r_{i-1} k_i, k_{i+1} .. k_n]
        grads.append((grown @ rights[i + 1].mT).reshape(right[i].shape))
        grad = right[i].flatten(-3, -2).mT @ grown
    grads.append(grad.reshape(right[-1].shape))
    return grads


def _apply(x: Tensor, layer: TTLayer) -> tuple[Tensor, Tensor]:
    """`x A` and `(x A) B + bias` of x `[rows, in]` or `[P, rows, in]`."""
    a, b = halves(layer)
    s = x @ a
    y = s @ b
    if layer.bias is not None:
        y = y + (layer.bias.unsqueeze(-2) if layer.bias_batched else layer.bias)
    return s, y


def _by_query(x: Tensor, layers: Sequence[TTLayer], queries: int | None) -> Tensor:
    """x in the cores' dtype, its rows split by query where the cores have queries."""
    wide = x.to(layers[0].cores[0].dtype)
    return wide if queries is None else wide.unflatten(0, (queries, -1))


def explicit(layers: Sequence[TTLayer], noise: TTNoise | None) -> list[TTLayer]:
    """The layers as the call uses them: where there is noise, perturbed, with a query dimension."""
    if noise is None:
        return list(layers)
    offsets = iter(noise.positions)

    def copies(tensor: Tensor) -> Tensor:
        out = tensor.expand(len(noise.seeds), *tensor.shape).contiguous()
        place = [noise.stream], [next(offsets)]
        if place[1] != [FIXED]:
            for copy, seed, scale in zip(out, noise.seeds, noise.scales):
                perturb_([tensor], [copy], [seed], [scale], 1.0, *place, noise.distribution, "nearest")
        return out

    made = []
    for layer in layers:
        n, tensors = len(layer.cores), tuple(map(copies, layer.tensors))
        bias = None if layer.bias is None else tensors[n]
        made.append(replace(layer, cores=tensors[:n], bias=bias, batched=True))
    return made


def tt_halves(layer: TTLayer, left: Tensor, right: Tensor) -> None:
    """Backend entry: fills A and B."""
    a, b = halves(layer)
    left.copy_(a)
    right.copy_(b)


def tt_linear(x: Tensor, out: Tensor, layer: TTLayer, queries: int | None, noise: TTNoise | None) -> None:
    """Backend entry: x `[rows, in]` to out `[rows, out]`; arguments as checked by `zokern.ops.tt`."""
    (layer,) = explicit([layer], noise)
    _, y = _apply(_by_query(x, [layer], queries), layer)
    out.copy_(y.reshape(out.shape))


def tt_adapter(
    x: Tensor, out: Tensor, down: TTLayer, up: TTLayer, activation: str, scale: float,
    queries: int | None, noise: TTNoise | None,
) -> None:  # fmt: skip
    """Backend entry: x `[rows, hidden]` to out of the same shape, which may be x."""
    down, up = explicit([down, up], noise)
    wide = _by_query(x, [down, up], queries)
    _, hidden = _apply(wide, down)
    _, delta = _apply(ACTIVATIONS[activation](hidden), up)
    out.copy_((wide + scale * delta).reshape(out.shape))


def _round(y: Tensor, x: Tensor) -> Tensor:
    """y with the leading sizes of x, in its dtype."""
    return y.reshape(*x.shape[:-1], y.shape[-1]).to(x.dtype)


def tt_linear_composed(x: Tensor, matrix: Tensor, layer: TTLayer) -> Tensor:
    """y of x `[..., in]` by operations that PyTorch differentiates itself, in any mode and order; `matrix` is x
    as `[rows, in]` or `[P, rows, in]` in the cores' dtype."""
    return _round(_apply(matrix, layer)[1], x)


def tt_adapter_composed(
    x: Tensor, matrix: Tensor, down: TTLayer, up: TTLayer, activation: str, scale: float
) -> Tensor:
    """As `tt_linear_composed`, of an adapter."""
    hidden = _apply(matrix, down)[1]
    return _round(matrix + scale * _apply(ACTIVATIONS[activation](hidden), up)[1], x)


def tt_linear_backward(x: Tensor, layer: TTLayer, grad: Tensor) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """Gradients of x, the cores and the bias; x and grad are `[rows, n]` or `[P, rows, n]`.

    Recomputes the halves instead of keeping them: 17 k multiply-adds against 41 k for every row at
    hidden 4096, rank 5.
    """
    a, b = halves(layer)
    grad_s = grad @ b.mT
    grads = tt_halves_backward(layer, x.mT @ grad_s, (x @ a).mT @ grad)
    grad_bias = None
    if layer.bias is not None:
        grad_bias = grad.sum(-2)
        if layer.batched and not layer.bias_batched:
            grad_bias = grad_bias.sum(0)  # one bias for all queries
    return grad_s @ a.mT, grads, grad_bias


def activation_backward(hidden: Tensor, activation: str, grad: Tensor) -> Tensor:
    """grad times the activation's derivative at `hidden`."""
    if activation == "identity":
        return grad
    if activation == "relu":
        return grad * (hidden > 0)
    if activation == "tanh":
        return grad * (1 - torch.tanh(hidden) ** 2)
    if activation == "silu":
        gate = torch.sigmoid(hidden)
        return grad * gate * (1 + hidden * (1 - gate))
    density = torch.exp(-0.5 * hidden * hidden) * (2 * torch.pi) ** -0.5
    return grad * (torch.special.ndtr(hidden) + hidden * density)


def tt_adapter_backward(
    x: Tensor, down: TTLayer, up: TTLayer, activation: str, scale: float, grad: Tensor
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor | None, Tensor | None]:
    """Gradients of x, the down cores, the up cores, the down bias, the up bias."""
    _, hidden = _apply(x, down)
    active = ACTIVATIONS[activation](hidden)
    grad_active, up_grads, up_bias = tt_linear_backward(active, up, scale * grad)
    grad_hidden = activation_backward(hidden, activation, grad_active)
    grad_x, down_grads, down_bias = tt_linear_backward(x, down, grad_hidden)
    return grad + grad_x, down_grads, up_grads, down_bias, up_bias
