"""The tensor-train ops of `torch.ops.zokern`: schemas, fakes, the way to a backend's kernel, and backward.

Backward recomputes the halves and keeps x, cores and biases only. Its formulas are the reference's,
whatever backend served forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..call.dispatch import to_signed, to_unsigned
from ..call.tt_layers import TTLayer, adapter_layers, check_cores, count_queries, linear_layers
from ..call.tt_noise import TTNoise
from ..call.tt_rows import through_rows
from ._library import LIBRARY, define

GROUPS_CODE: dict[int | str, int] = {"auto": 0, 2: 2, 3: 3, 4: 4}
_GROUPS_NAME: dict[int, int | str] = {code: name for name, code in GROUPS_CODE.items()}


def flat(noise: TTNoise | None) -> tuple:
    """The noise as a schema can carry it; no seeds: none."""
    if noise is None:
        return [], [], [], 0, "gaussian"
    seeds = [to_signed(seed) for seed in noise.seeds]
    return seeds, list(noise.scales), list(noise.offsets), noise.stream, noise.distribution


def make_noise(
    seeds: list[int], scales: list[float], offsets: list[int], stream: int, distribution: str
) -> TTNoise | None:
    if not seeds:
        return None
    return TTNoise([to_unsigned(seed) for seed in seeds], scales, offsets, stream, distribution)


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
    return _reference(op, first)


def _reference(op: str, tensor: Tensor) -> Callable[..., Any]:
    """The reference's function."""
    return backends.select(op, tensor.device.type, "reference")[1]


def _run(
    op: str, x: Tensor, out: Tensor, layers: tuple[TTLayer, ...], groups: int, noise: TTNoise | None,
    *between: object,
) -> Tensor:  # fmt: skip
    """Plans the layers, then lets the backend fill out from x as matrices of rows."""
    tensors = sum(len(layer.tensors) for layer in layers)
    queries = count_queries(x, layers[0].queries, tensors, noise)
    if out.numel() == 0:
        return out
    n = x.shape[-1]
    rows = x.numel() // n // (queries or 1)
    planned = [layer.planned(rows, _GROUPS_NAME[groups]) for layer in layers]
    kernel = _kernel(op, layers[0])
    through_rows(x, out, lambda a, b: kernel(a, b, *planned, *between, queries, noise))
    return out


def _halves(cores: list[Tensor], split: int) -> tuple[Tensor, Tensor]:
    layer = check_cores("cores", cores, "split", split)
    left, right = _halves_fake(cores, split)
    _kernel("tt_halves", layer)(layer, left, right)
    return left, right


def _halves_fake(cores: list[Tensor], split: int) -> tuple[Tensor, Tensor]:
    plan = check_cores("cores", cores, "split", split).plan
    lead = cores[0].shape[:-3]
    first = cores[0]
    return (
        first.new_empty((*lead, plan.in_features, plan.rank)),
        first.new_empty((*lead, plan.rank, plan.out_features)),
    )


def _linear_out(
    x: Tensor, cores: list[Tensor], bias: Tensor | None, split: int, groups: int, seeds: list[int],
    scales: list[float], offsets: list[int], stream: int, distribution: str, out: Tensor,
) -> None:  # fmt: skip
    layers = linear_layers(cores, split, bias)
    _run("tt_linear", x, out, layers, groups, make_noise(seeds, scales, offsets, stream, distribution))


def _linear(x: Tensor, cores: list[Tensor], *arguments: Any) -> Tensor:
    out = _linear_fake(x, cores, *arguments)
    _linear_out(x, cores, *arguments, out=out)  # type: ignore[misc]
    return out


def _linear_fake(x: Tensor, cores: list[Tensor], bias: object, split: int, *_: object) -> Tensor:
    n = 1
    for core in cores[split:]:
        n *= core.shape[-2]
    return x.new_empty((*x.shape[:-1], n))


def _adapter_out(
    x: Tensor, down: list[Tensor], up: list[Tensor], down_bias: Tensor | None, up_bias: Tensor | None,
    down_split: int, up_split: int, activation: str, scale: float, groups: int, seeds: list[int],
    scales: list[float], offsets: list[int], stream: int, distribution: str, out: Tensor,
) -> None:  # fmt: skip
    layers = adapter_layers(down, up, down_split, up_split, down_bias, up_bias)
    noise = make_noise(seeds, scales, offsets, stream, distribution)
    _run("tt_adapter", x, out, layers, groups, noise, activation, scale)


def _adapter(x: Tensor, *arguments: Any) -> Tensor:
    out = _adapter_fake(x)
    _adapter_out(x, *arguments, out=out)  # type: ignore[misc]
    return out


def _adapter_fake(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


def _adapter_(x: Tensor, *arguments: Any) -> None:
    _adapter_out(x, *arguments, out=x)  # type: ignore[misc]


_NOISE = "int[] seeds, float[] scales, int[] offsets, int stream, str distribution"
_LINEAR = f"Tensor[] cores, Tensor? bias, int split, int groups, {_NOISE}"
_ADAPTER = (
    "Tensor[] down, Tensor[] up, Tensor? down_bias, Tensor? up_bias, int down_split, int up_split, "
    f"str activation, float scale, int groups, {_NOISE}"
)
define("tt_halves(Tensor[] cores, int split) -> (Tensor, Tensor)", _halves, _halves_fake)
define(f"tt_linear(Tensor x, {_LINEAR}) -> Tensor", _linear, _linear_fake)
define(f"tt_linear_out(Tensor x, {_LINEAR}, Tensor(a!) out) -> ()", _linear_out, lambda *_: None)
define(f"tt_adapter(Tensor x, {_ADAPTER}) -> Tensor", _adapter, _adapter_fake)
define(f"tt_adapter_out(Tensor x, {_ADAPTER}, Tensor(a!) out) -> ()", _adapter_out, lambda *_: None)
define(f"tt_adapter_(Tensor(a!) x, {_ADAPTER}) -> ()", _adapter_, lambda *_: None)


# of groups, seeds, scales, offsets, stream, distribution. PyTorch takes an empty list argument for a list of
# tensors, and wants an empty list as its gradient.
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
    layer = check_cores("cores", ctx.saved_tensors, "split", ctx.split)
    return _reference("tt_halves_backward", grad_a)(layer, grad_a, grad_b), None


def _linear_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    x, cores, bias, ctx.split, _, seeds, *_ = inputs
    _refuse_noise(seeds)
    ctx.save_for_backward(x, bias, *cores)


def _linear_backward(ctx: Any, grad: Tensor) -> tuple:
    x, bias, *cores = ctx.saved_tensors
    (layer,) = linear_layers(cores, ctx.split, bias)
    backward = _reference("tt_linear_backward", x)
    grad_x, grads, grad_bias = backward(_matrix(x, layer), layer, _matrix(grad, layer))
    return grad_x.reshape(x.shape).to(x.dtype), grads, grad_bias, None, *_NO_GRADS


def _adapter_setup(ctx: Any, inputs: tuple, output: Any) -> None:
    x, down, up, down_bias, up_bias, *ctx.splits = inputs[:7]
    ctx.activation, ctx.scale, seeds = inputs[7], inputs[8], inputs[10]
    _refuse_noise(seeds)
    ctx.count = len(down)
    ctx.save_for_backward(x, down_bias, up_bias, *down, *up)


def _adapter_backward(ctx: Any, grad: Tensor) -> tuple:
    x, down_bias, up_bias, *cores = ctx.saved_tensors
    down, up = cores[: ctx.count], cores[ctx.count :]
    down_split, up_split = ctx.splits
    first, second = adapter_layers(down, up, down_split, up_split, down_bias, up_bias)
    backward = _reference("tt_adapter_backward", x)
    grad_x, down_grads, grad_down_bias, up_grads, grad_up_bias = backward(
        _matrix(x, first), first, second, ctx.activation, ctx.scale, _matrix(grad, first)
    )
    return (
        grad_x.reshape(x.shape).to(x.dtype), down_grads, up_grads, grad_down_bias, grad_up_bias,
        None, None, None, None, *_NO_GRADS,
    )  # fmt: skip


for _op, _backward, _setup in (
    ("tt_halves", _halves_backward, _halves_setup),
    ("tt_linear", _linear_backward, _linear_setup),
    ("tt_adapter", _adapter_backward, _adapter_setup),
):
    torch.library.register_autograd(f"zokern::{_op}", _backward, setup_context=_setup, lib=LIBRARY)
