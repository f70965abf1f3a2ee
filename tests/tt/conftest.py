"""Layers to test on, their dense weights in float64, and the backends that have the ops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

import zokern
from tests.conftest import Backend, all_backends, as_params
from zokern import backends

# Relative to the largest |y|. fp32 sums of up to some thousand products, the worst seen over the
# property test's shapes being 2.6e-6; forming the weight in fp32 and multiplying gives the same.
FP32 = 4e-6
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}

PAPER = {  # name: modes, cores on the input side (the paper's table 9)
    "768x64": ([8, 8, 12, 4, 4, 4], 3),
    "4096x64": ([16, 16, 16, 4, 4, 4], 3),
    "64x768": ([4, 4, 4, 12, 8, 8], 3),
    "64x4096": ([4, 4, 4, 16, 16, 16], 3),
    "768x8": ([8, 8, 12, 2, 2, 2], 3),
    "8x4096": ([2, 2, 2, 16, 16, 16], 3),
}
ODD = {  # one core a side, unequal ranks, ones, primes, vector tails, a split off the middle
    "61x7": ([61, 7], 1, [3]),
    "61x8 padded": ([61, 1, 1, 2, 4], 3, [1, 3, 4, 5]),
    "63x15": ([7, 9, 5, 3], 2, [16, 17, 2]),
    "96x96 rank 40": ([12, 8, 8, 12], 2, [40, 3, 9]),
    "2x18": ([2, 3, 2, 3], 1, [2, 3, 2]),
    "12x3": ([2, 3, 2, 3], 3, [2, 3, 2]),
    "33x34": ([33, 2, 17], 1, [19, 5]),
}


def make_cores(
    modes: Sequence[int], ranks: Sequence[int] | int, queries: int | None = None, seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    inner = [ranks] * (len(modes) - 1) if isinstance(ranks, int) else list(ranks)
    ends = [1, *inner, 1]
    lead = () if queries is None else (queries,)
    return [
        torch.randn(*lead, ends[i], k, ends[i + 1], generator=generator, dtype=dtype) / ends[i] ** 0.5
        for i, k in enumerate(modes)
    ]


def dense_weight(cores: Sequence[Tensor], split: int) -> Tensor:
    """W [in, out] in float64, from the definition: no halves, no order of contraction to share."""
    total = cores[0].double().cpu()
    for core in cores[1:]:
        total = torch.tensordot(total, core.double().cpu(), dims=1)
    modes = [core.shape[1] for core in cores]
    rows = 1
    for k in modes[:split]:
        rows *= k
    return total.reshape(rows, -1)


def error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    scale = expected.abs().max().clamp_min(1e-30)
    return float((actual.double().cpu() - expected).abs().max() / scale)


def serving() -> list[Backend]:
    """The backends whose tables have the ops. The reference and the CPU always do."""
    return [
        b
        for b in all_backends()
        if b.name in ("reference", "cpu") or "tt_linear" in getattr(backends._load(b.name), "OPS", ())
    ]


@pytest.fixture(params=as_params(serving()))
def tt_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every backend that has the tensor-train ops, selected for the test's duration."""
    with request.param.use():
        yield request.param


@pytest.fixture(params=as_params([b for b in serving() if b.name == "cpu"]))
def cpu(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The CPU kernels at every instruction set."""
    with request.param.use():
        yield request.param


def to(tensors: Sequence[Tensor], device: str) -> list[Tensor]:
    return [t.to(device) for t in tensors]


@st.composite
def layers(draw: st.DrawFn) -> tuple[list[int], int, list[int]]:
    """modes, split and ranks of a random layer: 1 to 4 cores a side, any ranks, at most 1 500 wide."""
    sides = []
    for side in range(2):
        count = draw(st.integers(1, 4), label=f"cores of side {side}")
        modes, size = [], 1
        for _ in range(count):
            k = draw(st.integers(1, min(70, 1500 // size)))
            modes.append(k)
            size *= k
        sides.append(modes)
    modes = sides[0] + sides[1]
    ranks = draw(st.lists(st.integers(1, 20), min_size=len(modes) - 1, max_size=len(modes) - 1))
    return modes, len(sides[0]), ranks


def adapter(
    hidden: Sequence[int], narrow: Sequence[int], ranks: int = 5, queries: int | None = None,
    seed: int = 0, dtype: torch.dtype = torch.float32,
) -> dict:  # fmt: skip
    """Arguments of `tt_adapter` for hidden -> narrow -> hidden, biases included."""
    generator = torch.Generator().manual_seed(seed + 1)
    down = make_cores([*hidden, *narrow], ranks, queries, seed, dtype)
    up = make_cores([*narrow, *hidden], ranks, queries, seed + 2, dtype)
    lead = () if queries is None else (queries,)
    n, m = (int(torch.tensor(modes).prod()) for modes in (hidden, narrow))
    down[0] /= n**0.5  # hidden values of order one, where activations bend
    up[0] /= m**0.5
    return {
        "down": down,
        "up": up,
        "down_split": len(hidden),
        "up_split": len(narrow),
        "down_bias": torch.randn(*lead, m, generator=generator, dtype=dtype),
        "up_bias": torch.randn(*lead, n, generator=generator, dtype=dtype),
    }


def adapter_to(arguments: dict, device: str) -> dict:
    def moved(value: object) -> object:
        if isinstance(value, Tensor):
            return value.to(device)
        return to(value, device) if isinstance(value, list) else value

    return {name: moved(value) for name, value in arguments.items()}


def dense_adapter(x: Tensor, a: dict, activation: str = "relu", scale: float = 1.0) -> Tensor:
    """The adapter in float64 with dense weights."""
    act = {
        "relu": torch.relu,
        "gelu": torch.nn.functional.gelu,
        "silu": torch.nn.functional.silu,
        "tanh": torch.tanh,
        "identity": lambda h: h,
    }[activation]
    x64 = x.double().cpu()
    hidden = x64 @ dense_weight(a["down"], a["down_split"])
    if a["down_bias"] is not None:
        hidden = hidden + a["down_bias"].double().cpu()
    delta = act(hidden) @ dense_weight(a["up"], a["up_split"])
    if a["up_bias"] is not None:
        delta = delta + a["up_bias"].double().cpu()
    return x64 + scale * delta


def in_one_buffer(arguments: dict) -> tuple[Tensor, dict, list[int]]:
    """The same adapter as views of one flat buffer, in the order of a noise's offsets."""
    down, up = arguments["down"], arguments["up"]
    tensors = [*down, arguments["down_bias"], *up, arguments["up_bias"]]
    flat = torch.cat([t.reshape(-1) for t in tensors])
    views, offsets, at = [], [], 0
    for t in tensors:
        views.append(flat[at : at + t.numel()].view(t.shape))
        offsets.append(at)
        at += t.numel()
    n = len(down)
    placed = {**arguments, "down": views[:n], "down_bias": views[n], "up": views[n + 1 : -1],
              "up_bias": views[-1]}  # fmt: skip
    return flat, placed, offsets


def run_adapter(x: Tensor, arguments: dict, **options: object) -> Tensor:
    rest = dict(arguments)
    return zokern.tt_adapter(x, rest.pop("down"), rest.pop("up"), **rest, **options)
