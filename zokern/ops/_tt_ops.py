"""The tensor-train ops of `torch.ops.zokern`: schemas, fakes, and the way to a backend's kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from . import _tt_autograd
from ._library import define, to_signed, to_unsigned
from ._tt_checks import TTLayer, TTNoise, check_cores, count_queries, with_bias
from ._tt_rows import through_rows

GROUPS_CODE: dict[int | str, int] = {"auto": 0, 2: 2, 3: 3, 4: 4}
_GROUPS_NAME: dict[int, int | str] = {code: name for name, code in GROUPS_CODE.items()}


def linear_layers(cores: Sequence[Tensor], split: int | None, bias: Tensor | None) -> tuple[TTLayer, ...]:
    return (with_bias(check_cores(cores, split, "cores", "split"), bias, "bias"),)


def adapter_layers(
    down: Sequence[Tensor], up: Sequence[Tensor], down_split: int | None, up_split: int | None,
    down_bias: Tensor | None, up_bias: Tensor | None,
) -> tuple[TTLayer, ...]:  # fmt: skip
    first = with_bias(check_cores(down, down_split, "down", "down_split"), down_bias, "down_bias")
    second = with_bias(check_cores(up, up_split, "up", "up_split"), up_bias, "up_bias")
    (hidden, narrow), (taken, given) = (
        (layer.plan.in_features, layer.plan.out_features) for layer in (first, second)
    )
    if narrow != taken:
        raise ValueError(f"up takes {taken} features, down gives {narrow}")
    if given != hidden:
        raise ValueError(f"up gives {given} features, the residual has {hidden}")
    if first.queries != second.queries:
        raise ValueError(
            f"up holds {second.queries or 'no'} queries, down {first.queries or 'none'}; "
            f"both need the same query dimension, or neither"
        )
    a, b = first.cores[0], second.cores[0]
    if a.dtype != b.dtype or a.device != b.device:
        raise ValueError(f"up is {b.dtype} on {b.device}, down {a.dtype} on {a.device}")
    return first, second


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


def _kernel(op: str, layer: TTLayer):  # type: ignore[no-untyped-def]
    """The function that serves; float64 is the reference's."""
    first = layer.cores[0]
    if first.dtype != torch.float64:
        return backends.select(op, first.device.type)[1]
    asked, _ = backends.requested()
    if asked not in (None, "reference"):
        raise backends.BackendUnavailable(
            f"backend {asked!r} was asked for but takes float32 cores only, got float64"
        )
    from ..reference import tt as reference

    return getattr(reference, op)


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
    layer = check_cores(cores, split, "cores", "split")
    left, right = _halves_fake(cores, split)
    _kernel("tt_halves", layer)(layer, left, right)
    return left, right


def _halves_fake(cores: list[Tensor], split: int) -> tuple[Tensor, Tensor]:
    plan = check_cores(cores, split, "cores", "split").plan
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
_tt_autograd.register()
