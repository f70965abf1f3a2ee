"""Tensor-train layers to measure: the shapes, plain PyTorch forms of them, and the installable peers.

All of one problem have the same weights. Peers hold a matrix as cores (r, out_i, in_i, r'); with the
modes (16, 16, 16, 1, 1, 1) -> (1, 1, 1, 4, 4, 4) those are the cores [16, 16, 16 | 4, 4, 4] of here.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MODES = {  # AdaZeta, table 9, with its last row's factor corrected
    (768, 64): ((8, 8, 12), (4, 4, 4)),
    (4096, 64): ((16, 16, 16), (4, 4, 4)),
    (64, 768): ((4, 4, 4), (12, 8, 8)),
    (64, 4096): ((4, 4, 4), (16, 16, 16)),
    (768, 8): ((8, 8, 12), (2, 2, 2)),
    (8, 768): ((2, 2, 2), (12, 8, 8)),
    (4096, 8): ((16, 16, 16), (2, 2, 2)),
    (8, 4096): ((2, 2, 2), (16, 16, 16)),
}
Apply = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """Cores and bias of x W + bias, W [in, out]."""

    cores: list[Tensor]
    split: int
    bias: Tensor

    @property
    def parameters(self) -> int:
        return sum(t.numel() for t in (*self.cores, self.bias))

    def times(self, factor: float) -> Layer:
        """The same with W and the bias scaled."""
        return Layer([*self.cores[:-1], self.cores[-1] * factor], self.split, self.bias * factor)


def make_layer(inputs: int, outputs: int, rank: int, seed: int = 0) -> Layer:
    """Random cores whose W has entries of variance 1 / in."""
    generator = torch.Generator().manual_seed(seed)
    left, right = MODES[inputs, outputs]
    modes = (*left, *right)
    ranks = (1, *(rank for _ in modes[1:]), 1)
    cores = [torch.randn(a, k, b, generator=generator) * b**-0.5 for a, k, b in zip(ranks, modes, ranks[1:])]
    cores[0] *= inputs**-0.5
    return Layer(cores, len(left), torch.randn(outputs, generator=generator))


def halves(layer: Layer) -> tuple[Tensor, Tensor]:
    """A [in, r] and B [r, out], each grown from its rank-1 boundary inward."""
    cores, split = layer.cores, layer.split
    left = cores[0].view(-1, cores[0].shape[2])
    for core in cores[1:split]:
        left = (left @ core.view(core.shape[0], -1)).view(-1, core.shape[2])
    right = cores[-1].view(cores[-1].shape[0], -1)
    for core in cores[-2 : split - 1 : -1]:
        right = (core.view(-1, core.shape[2]) @ right).view(core.shape[0], -1)
    return left, right


def weight(layer: Layer) -> Tensor:
    """W [in, out], core after core from the left, as published layers form it."""
    total = layer.cores[0].view(-1, layer.cores[0].shape[2])
    for core in layer.cores[1:]:
        total = (total @ core.view(core.shape[0], -1)).view(-1, core.shape[2])
    return total.view(-1, layer.bias.numel())


def plain_linear(x: Tensor, layer: Layer) -> Tensor:
    """(x A) B + bias; of a 16-bit x in fp32, as accurately as the kernels."""
    a, b = halves(layer)
    return torch.addmm(layer.bias, x.float() @ a, b).to(x.dtype)


def plain_adapter(x: Tensor, down: Layer, up: Layer) -> Tensor:
    a, b = halves(down)
    c, d = halves(up)
    wide = x.float()
    hidden = torch.relu(torch.addmm(down.bias, wide @ a, b))
    return (wide + torch.addmm(up.bias, hidden @ c, d)).to(x.dtype)


def plain_adapter_lean(x: Tensor, down: Layer, up: Layer) -> Tensor:
    """`plain_adapter` with one tensor of x's size where it has two; fp32."""
    a, b = halves(down)
    c, d = halves(up)
    hidden = torch.addmm(down.bias, x @ a, b).relu_()
    return torch.addmm(x, hidden @ c, d).add_(up.bias)


def plain_adapter_(x: Tensor, down: Layer, up: Layer) -> Tensor:
    """In place and with none; fp32."""
    a, b = halves(down)
    c, d = halves(up)
    hidden = torch.addmm(down.bias, x @ a, b).relu_()
    return x.addmm_(hidden @ c, d).add_(up.bias)


def rounded_linear(x: Tensor, layer: Layer) -> Tensor:
    """(x A) B + bias with the halves rounded to x's dtype: fast, and too inaccurate for probes."""
    a, b = halves(layer)
    return torch.addmm(layer.bias.to(x.dtype), x @ a.to(x.dtype), b.to(x.dtype))


def materialised_linear(x: Tensor, layer: Layer) -> Tensor:
    return torch.addmm(layer.bias, x.float(), weight(layer)).to(x.dtype)


def dense_linear(layer: Layer, dtype: torch.dtype) -> Apply:
    w, bias = weight(layer).t().contiguous().to(dtype), layer.bias.to(dtype)
    return lambda x: F.linear(x, w, bias)


def as_adapter(down: Apply, up: Apply) -> Apply:
    """y = x + up(relu(down(x))) of two layers."""
    return lambda x: x + up(torch.relu(down(x)))


def exact(x: Tensor, *layers: Layer) -> Tensor:
    """The layer's, or the adapter's, y in float64."""
    ws = [weight(Layer([c.double() for c in layer.cores], layer.split, layer.bias)) for layer in layers]
    y = x.double() @ ws[0] + layers[0].bias
    return y if len(layers) == 1 else x.double() + y.relu() @ ws[1] + layers[1].bias


def _pairs(layer: Layer) -> tuple[list[int], list[int], list[int], list[Tensor]]:
    """in modes, out modes, ranks and cores (r, out_i, in_i, r') of the layer as peers hold it."""
    modes = [core.shape[1] for core in layer.cores]
    inputs = [k if i < layer.split else 1 for i, k in enumerate(modes)]
    outputs = [1 if i < layer.split else k for i, k in enumerate(modes)]
    cores = [c.view(c.shape[0], o, k, c.shape[2]) for c, k, o in zip(layer.cores, inputs, outputs)]
    return inputs, outputs, [1, *(core.shape[2] for core in layer.cores)], cores


def tensorly_torch(layer: Layer, implementation: str) -> Apply:
    from tltorch import FactorizedLinear

    inputs, outputs, ranks, cores = _pairs(layer)
    made = FactorizedLinear(
        tuple(inputs), tuple(outputs), factorization="blocktt", rank=tuple(ranks), implementation=implementation
    )  # fmt: skip
    for factor, core in zip(made.weight.factors, cores):
        factor.data.copy_(core)
    made.bias.data.copy_(layer.bias)
    return made


def torch_tt(layer: Layer) -> Apply:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has no C++ part here, which its layers do not use
        from torchtt.nn import LinearLayerTT

    inputs, outputs, ranks, cores = _pairs(layer)
    made = LinearLayerTT(inputs, outputs, ranks)
    for parameter, core in zip(made.cores, cores):
        parameter.data.copy_(core)
    made.bias.data.copy_(layer.bias.view(outputs))
    return lambda x: made(x.view(-1, *inputs)).view(len(x), -1)


def opt_einsum(layer: Layer, rows: int) -> Apply:
    """One contraction of x with all cores, in the order that opt_einsum finds best, found once."""
    from opt_einsum import contract_expression

    n, split = len(layer.cores), layer.split
    letters = "abcdefghijklmnopqrstuvwxyz"
    modes, bonds = letters[:n], letters[n : 2 * n + 1]
    terms = [f"{bonds[i]}{modes[i]}{bonds[i + 1]}" for i in range(n)]
    terms[0], terms[-1] = terms[0][1:], terms[-1][:-1]
    equation = f"Z{modes[:split]},{','.join(terms)}->Z{modes[split:]}"
    sizes = [core.shape[1] for core in layer.cores[:split]]
    cores = [layer.cores[0][0], *layer.cores[1:-1], layer.cores[-1][..., 0]]
    expression = contract_expression(
        equation, (rows, *sizes), *(c.shape for c in cores), optimize="optimal"
    )  # fmt: skip
    return lambda x: expression(x.view(rows, *sizes), *cores).reshape(rows, -1) + layer.bias


def peers(layer: Layer, rows: int) -> dict[str, Apply]:
    """The layer in every peer; needs the `bench` extra."""
    return {
        "tensorly-torch factorized": tensorly_torch(layer, "factorized"),
        "tensorly-torch reconstructed": tensorly_torch(layer, "reconstructed"),
        "torchTT": torch_tt(layer),
        "opt_einsum, cached": opt_einsum(layer, rows),
    }


@functools.cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.compile` of a function, for fixed sizes."""
    torch._dynamo.config.cache_size_limit = 64
    return torch.compile(function, dynamic=False)


def nbytes(x: Tensor, outputs: int, *layers: Layer) -> int:
    """Memory a call must move: x read once, y written once, the fp32 parameters read once."""
    rows = x.numel() // x.shape[-1]
    return rows * (x.shape[-1] + outputs) * x.element_size() + 4 * sum(layer.parameters for layer in layers)
