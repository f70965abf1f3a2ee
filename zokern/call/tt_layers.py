"""Tensor-train layers as a call is given them, checked and normalised, and how x fits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .checks import as_integer, as_sequence, check_kind, check_tensor
from .memory import check_in_memory
from .tt_noise import TTNoise
from .tt_plan import TTPlan, gpu_plan, make_plan

CORE_DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class TTLayer:
    """One checked layer as the backends take it.

    cores: `[r_{i-1}, k_i, r_i]` each, or `[P, r_{i-1}, k_i, r_i]` where `batched`; any strides.
    bias: `[out]` or `[P, out]` or None.
    groups: what the plan was asked to be; with "auto" a backend may take cuts of its own.
    """

    cores: tuple[Tensor, ...]
    bias: Tensor | None
    batched: bool
    plan: TTPlan
    groups: int | str = "auto"

    @property
    def queries(self) -> int | None:
        """P, or None where all rows use the same cores."""
        return self.cores[0].shape[0] if self.batched else None

    @property
    def bias_batched(self) -> bool:
        return self.bias is not None and self.bias.dim() == 2

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The cores, then the bias if there is one: the order of a noise's offsets."""
        return self.cores if self.bias is None else (*self.cores, self.bias)

    def made_dense(self) -> TTLayer:
        """The layer with each tensor itself where a query's part of it is dense, else a dense copy."""

        def dense(tensor: Tensor, batched: bool) -> Tensor:
            return tensor if (tensor[0] if batched else tensor).is_contiguous() else tensor.contiguous()

        bias = None if self.bias is None else dense(self.bias, self.bias_batched)
        return replace(self, cores=tuple(dense(core, self.batched) for core in self.cores), bias=bias)

    def planned_for_gpu(self) -> TTLayer:
        """The layer with the cuts of a GPU's kernels."""
        return replace(self, plan=gpu_plan(self.plan, self.groups))

    def planned(self, rows: int, groups: int | str) -> TTLayer:
        p = self.plan
        return replace(self, plan=make_plan(p.modes, p.ranks, p.split, rows, groups), groups=groups)


def check_cores(name: str, cores: Sequence[Tensor], split_name: str, split: int | None) -> TTLayer:
    """The layer of `cores`, with its bipartite plan.

    Raises:
        TypeError: not a sequence of tensors of one dtype, float32 or float64.
        ValueError: ranks do not chain, a size is 0, the split leaves a side without cores.
    """
    if isinstance(cores, Tensor):
        raise TypeError(f"{name} must be a list of tensors, got Tensor of shape {tuple(cores.shape)}")
    cores = tuple(as_sequence(name, cores, "a list of tensors"))
    if len(cores) < 2:
        raise ValueError(f"{name} must have at least 2 cores, one a side, got {len(cores)}")
    first = cores[0]
    for i, core in enumerate(cores):
        this = f"{name}[{i}]"
        check_tensor(this, core)
        check_in_memory(this, core, transforms=True)
        if core.dtype not in CORE_DTYPES or core.dtype != first.dtype:
            raise TypeError(
                f"{this} has dtype {core.dtype}; cores are float32 (or all float64), whatever x's"
            )
        if core.device != first.device:
            raise ValueError(f"{this} is on {core.device} and {name}[0] on {first.device}")
        if core.dim() != first.dim() or core.dim() not in (3, 4):
            expected = "every core is (r, k, r') or, with one set a query, (P, r, k, r')"
            raise ValueError(f"{this} has shape {tuple(core.shape)}; {expected}")
        if 0 in core.shape:
            raise ValueError(f"{this} has a size of 0: shape {tuple(core.shape)}")
        if core.dim() == 4 and core.shape[0] != first.shape[0]:
            raise ValueError(f"{this} holds {core.shape[0]} queries and {name}[0] {first.shape[0]}")
    ranks = (*(core.shape[-3] for core in cores), cores[-1].shape[-1])
    for i, (core, rank) in enumerate(zip(cores, ranks[1:])):
        if core.shape[-1] != rank:
            raise ValueError(
                f"ranks of {name} do not chain: {name}[{i}] ends with rank {core.shape[-1]}, "
                f"{name}[{i + 1}] begins with {rank}"
            )
    if ranks[0] != 1 or ranks[-1] != 1:
        raise ValueError(f"{name} must begin and end with rank 1, got {ranks[0]} and {ranks[-1]}")
    if split is None:
        split = len(cores) // 2
    split = split if type(split) is int else as_integer(split_name, split, "an int")
    if not 1 <= split < len(cores):
        raise ValueError(f"{split_name} must be in [1, {len(cores) - 1}] for {len(cores)} cores, got {split}")
    plan = TTPlan(tuple(core.shape[-2] for core in cores), ranks, split, 0, split)
    return TTLayer(cores, None, first.dim() == 4, plan)


def with_bias(layer: TTLayer, name: str, bias: Tensor | None) -> TTLayer:
    if bias is None:
        return layer
    check_tensor(name, bias)
    check_in_memory(name, bias, transforms=True)
    first = layer.cores[0]
    if bias.dtype != first.dtype:
        raise TypeError(f"{name} has dtype {bias.dtype}, the cores {first.dtype}")
    if bias.device != first.device:
        raise ValueError(f"{name} is on {bias.device}, the cores on {first.device}")
    n = layer.plan.out_features
    allowed = [(n,), (first.shape[0], n)] if layer.batched else [(n,)]
    if tuple(bias.shape) not in allowed:
        raise ValueError(f"{name} has shape {tuple(bias.shape)}, expected {' or '.join(map(str, allowed))}")
    return replace(layer, bias=bias)


def linear_layers(cores: Sequence[Tensor], split: int | None, bias: Tensor | None) -> tuple[TTLayer, ...]:
    return (with_bias(check_cores("cores", cores, "split", split), "bias", bias),)


def adapter_layers(
    down: Sequence[Tensor], up: Sequence[Tensor], down_split: int | None, up_split: int | None,
    down_bias: Tensor | None, up_bias: Tensor | None,
) -> tuple[TTLayer, ...]:  # fmt: skip
    first = with_bias(check_cores("down", down, "down_split", down_split), "down_bias", down_bias)
    second = with_bias(check_cores("up", up, "up_split", up_split), "up_bias", up_bias)
    down_plan, up_plan = first.plan, second.plan
    if down_plan.out_features != up_plan.in_features:
        raise ValueError(f"up takes {up_plan.in_features} features, down gives {down_plan.out_features}")
    if up_plan.out_features != down_plan.in_features:
        raise ValueError(
            f"up gives {up_plan.out_features} features, the residual has {down_plan.in_features}"
        )
    if first.queries != second.queries:
        raise ValueError(
            f"up holds {second.queries or 'no'} queries, down {first.queries or 'none'}; "
            f"both need the same query dimension, or neither"
        )
    a, b = first.cores[0], second.cores[0]
    if a.dtype != b.dtype or a.device != b.device:
        raise ValueError(f"up is {b.dtype} on {b.device}, down {a.dtype} on {a.device}")
    return first, second


def check_x(x: Tensor, plan: TTPlan, first: Tensor) -> None:
    """x fits a layer of this plan whose first core is `first`."""
    check_tensor("x", x)
    check_in_memory("x", x, transforms=True)
    if (x.dtype == torch.float64) != (first.dtype == torch.float64):
        raise TypeError(f"x has dtype {x.dtype} and the cores {first.dtype}; float64 goes with float64")
    if x.device != first.device:
        raise ValueError(f"x is on {x.device}, the cores on {first.device}")
    size = plan.in_features
    if x.dim() == 0 or x.shape[-1] != size:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, its last dimension must be {size} "
            f"(modes {list(plan.modes[: plan.split])})"
        )


def count_queries(x: Tensor, stored: int | None, tensors: int, noise: TTNoise | None) -> int | None:
    """P, from the cores (`stored`) or the noise; None where all rows use the same cores.

    `tensors` is the number of the call's cores and biases."""
    queries, source = stored, "the cores"
    if noise is not None:
        check_kind("noise", noise, TTNoise, "a TTNoise")
        if stored is not None:
            raise ValueError("noise goes with cores of one query (3 dimensions), got 4 dimensions")
        if len(noise.offsets) != tensors:
            raise ValueError(f"noise.offsets has {len(noise.offsets)} entries for {tensors} cores and biases")
        queries, source = len(noise.seeds), "noise.seeds"
    if queries is None:
        return None
    if x.dim() < 2 or x.shape[0] % queries:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; its first dimension must be a multiple "
            f"of the {queries} queries in {source}"
        )
    return queries
