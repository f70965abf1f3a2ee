"""The tensor-train ops of `torch.ops.zokern`: schemas, fakes, the way to a backend's kernel, and backward.

Backward recomputes the halves and keeps x, cores and biases only. Its formulas are the reference's,
whatever backend served forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from .. import backends
from ..call.dispatch import forward_mode, has_tangent, to_signed, to_unsigned
from ..call.tt_layers import TTLayer, adapter_layers, check_cores, count_queries, linear_layers
from ..call.tt_noise import TTNoise
from ..call.tt_rows import through_rows
from ._library import LIBRARY, define

GROUPS_CODE: dict[int | str, int] = {"auto": 0, 2: 2, 3: 3, 4: 4}
_GROUPS_NAME: dict[int, int | str] = {code: name for name, code in GROUPS_CODE.items()}
# Of groups, seeds, scales, offsets, stream, distribution. PyTorch takes an empty list argument for a list of
# tensors, and wants an empty list as its gradient.
_NO_GRADS: tuple = (None, [], [], [], None, None)


def flat(noise: TTNoise | None) -> tuple:
    """The noise as a schema can carry it; no seeds: none."""
    if noise is None:
        return [], [], [], 0, "gaussian"
    seeds = [*map(to_signed, noise.seeds)]
    return seeds, list(noise.scales), list(noise.offsets), noise.stream, noise.distribution


def _kernel(op: str, layer: TTLayer) -> Callable[..., Any]:
    """The function that serves; float64 is the reference's."""
    first = layer.cores[0]
    if first.dtype != torch.float64:
        return backends.select(op, first.device.type)[1]
    asked, _ = backends.requested()
    if asked not in (None, "reference"):
        raise backends.BackendUnavailable(
            f"backend {asked!r} was asked for but takes float32 cores only, got float64"
        )
    return reference(op, first)


def reference(op: str, tensor: Tensor) -> Callable[..., Any]:
    """The reference's function."""
    return backends.select(op, tensor.device.type, "reference")[1]


def _linear_fake(x: Tensor, cores: list[Tensor], bias: object, split: int, *_: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], math.prod(core.shape[-2] for core in cores[split:])))


def _matrix(x: Tensor, layer: TTLayer) -> Tensor:
    """x in the cores' dtype as `[rows, n]`, or `[P, rows, n]` where the cores have queries."""
    rows = x.reshape(-1, x.shape[-1]).to(layer.cores[0].dtype)
    return rows if layer.queries is None else rows.unflatten(0, (layer.queries, -1))


def _refuse_tangents(op: str, *tensors: Tensor) -> None:
    """An op called by its own name has no forward-mode formula: not a silent 0."""
    if not torch.compiler.is_compiling() and forward_mode() and any(map(has_tangent, tensors)):
        raise RuntimeError(
            f"torch.ops.zokern.{op} has no forward-mode derivative; zokern.{op} has one, without out and noise"
        )


def composed(op: str, x: Tensor, layers: tuple[TTLayer, ...], *others: Any) -> Tensor:
    """y by operations that PyTorch differentiates itself, where the op has no formula: in forward mode, in torch.func."""
    return reference(f"{op}_composed", x)(x, _matrix(x, layers[0]), *layers, *others)


def _define_rows(
    op: str, schema: str, make: Callable[..., tuple], fake: Callable[..., Tensor], in_place: bool
) -> None:
    """Registers a layer's op with its backward, `<op>_out`, and `<op>_` where y has the shape of x.

    `make`: from the arguments of `schema` to the layers, and what a backend's entry takes after them."""

    def run_out(x: Tensor, *arguments: Any) -> None:
        """Plans the layers, then lets the backend fill out from x as matrices of rows."""
        *own, groups, seeds, scales, offsets, stream, distribution, out = arguments
        _refuse_tangents(op, x, *(leaf for leaf in tree_flatten(own)[0] if isinstance(leaf, Tensor)))
        layers, others = make(*own)
        noise = None
        if seeds:
            noise = TTNoise([*map(to_unsigned, seeds)], scales, offsets, stream, distribution)
        tensors = sum(len(layer.tensors) for layer in layers)
        queries = count_queries(x, layers[0].queries, tensors, noise)
        if out.numel() == 0:
            return
        rows = x.numel() // x.shape[-1] // (queries or 1)
        planned = [layer.planned(rows, _GROUPS_NAME[groups]) for layer in layers]
        kernel = _kernel(op, layers[0])
        through_rows(x, out, lambda a, b: kernel(a, b, *planned, *others, queries, noise))

    def run(x: Tensor, *arguments: Any) -> Tensor:
        out = fake(x, *arguments)
        run_out(x, *arguments, out)
        return out

    def setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
        *given, _, seeds, _, _, _, _ = inputs
        if seeds:
            raise RuntimeError("noise is for forward passes only; call under torch.no_grad()")
        leaves, ctx.structure = tree_flatten(given)
        ctx.save_for_backward(*(leaf if isinstance(leaf, Tensor) else None for leaf in leaves))
        ctx.leaves = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def backward(ctx: Any, grad: Tensor) -> tuple:
        leaves = [kept if saved is None else saved for saved, kept in zip(ctx.saved_tensors, ctx.leaves)]
        x, *own = tree_unflatten(leaves, ctx.structure)
        layers, others = make(*own)
        formula, first = reference(f"{op}_backward", x), layers[0]
        grad_x, *grads = formula(_matrix(x, first), *layers, *others, _matrix(grad, first))
        no_tensors = [None] * (len(own) - len(grads))
        return grad_x.reshape(x.shape).to(x.dtype), *grads, *no_tensors, *_NO_GRADS

    schema += ", int groups, int[] seeds, float[] scales, int[] offsets, int stream, str distribution"
    define(f"{op}(Tensor x, {schema}) -> Tensor", run, fake)
    define(f"{op}_out(Tensor x, {schema}, Tensor(a!) out) -> ()", run_out)
    if in_place:
        define(f"{op}_(Tensor(a!) x, {schema}) -> ()", lambda x, *arguments: run_out(x, *arguments, x))
    torch.library.register_autograd(f"zokern::{op}", backward, setup_context=setup, lib=LIBRARY)


_define_rows(
    "tt_linear",
    "Tensor[] cores, Tensor? bias, int split",
    lambda cores, bias, split: (linear_layers(cores, split, bias), ()),
    _linear_fake,
    in_place=False,
)
_define_rows(
    "tt_adapter",
    "Tensor[] down, Tensor[] up, Tensor? down_bias, Tensor? up_bias, int down_split, int up_split, "
    "str activation, float scale",
    lambda down, up, down_bias, up_bias, down_split, up_split, *others: (
        adapter_layers(down, up, down_split, up_split, down_bias, up_bias), others,
    ),
    lambda x, *_: x.new_empty(x.shape),
    in_place=True,
)  # fmt: skip


def _halves(cores: list[Tensor], split: int) -> tuple[Tensor, Tensor]:
    layer = check_cores("cores", cores, "split", split)
    _refuse_tangents("tt_halves", *cores)
    left, right = _halves_fake(cores, split)
    _kernel("tt_halves", layer)(layer, left, right)
    return left, right


def _halves_fake(cores: list[Tensor], split: int) -> tuple[Tensor, Tensor]:
    plan = check_cores("cores", cores, "split", split).plan
    first, lead = cores[0], cores[0].shape[:-3]
    left = first.new_empty((*lead, plan.in_features, plan.rank))
    return left, first.new_empty((*lead, plan.rank, plan.out_features))


def _halves_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    cores, ctx.split = inputs
    ctx.save_for_backward(*cores)


def _halves_backward(ctx: Any, grad_a: Tensor, grad_b: Tensor) -> tuple:
    layer = check_cores("cores", ctx.saved_tensors, "split", ctx.split)
    return reference("tt_halves_backward", grad_a)(layer, grad_a, grad_b), None


define("tt_halves(Tensor[] cores, int split) -> (Tensor, Tensor)", _halves, _halves_fake)
torch.library.register_autograd(
    "zokern::tt_halves", _halves_backward, setup_context=_halves_setup, lib=LIBRARY
)
