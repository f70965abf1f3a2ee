"""The microbenchmarks under pytest-benchmark: one pass, the passes with state, and the tensor-train ops, each
beside its peers. The cases are those of bench_perturb, bench_state and bench_tt, which run theirs interleaved
and are what README's ratios come from; these are for comparing two commits.

    python -m pytest benchmarks                                    all
    python -m pytest benchmarks -k "tiny and perturb"              some
    python -m pytest benchmarks --benchmark-autosave               keep the numbers
    python -m pytest benchmarks --benchmark-compare                beside those kept last

`extra_info` of each has the bytes a call must move and GB/s at the median. Before anything is timed its result
is checked, as in the scripts.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from zokern.backends import available_isas

from . import bench_perturb, bench_state, bench_tt
from . import tt_cases as tt
from .bench_tt import Problem
from .cases import PERTURB_CASES, gpt2_small_shapes, moved_bytes, weights

TINY = [(10_008,), (34, 6)]  # what a call costs besides its work; even sizes, for the floor of 16 bits
LISTS = {"tiny": TINY, **PERTURB_CASES}
STATE_LISTS = {"tiny": TINY, "gpt2-small, 148 tensors": gpt2_small_shapes()}
BEST = f"zokern {(available_isas() or ['reference'])[-1]}"
PASSES = (BEST, "zokern rademacher", "normal+add_", "MeZO expression", "floor")
FORMS = ("zokern", bench_tt.PLAIN, "materialise", "dense")
PEERS: dict[str, tuple[str, Callable[[tt.Layer, int], tt.Apply]]] = {
    "tensorly-torch factorized": ("tltorch", lambda layer, rows: tt.tensorly_torch(layer, "factorized")),
    "tensorly-torch reconstructed": (
        "tltorch",
        lambda layer, rows: tt.tensorly_torch(layer, "reconstructed"),
    ),
    "torchTT": ("torchtt", lambda layer, rows: tt.torch_tt(layer)),
    "opt_einsum, cached": ("opt_einsum", tt.opt_einsum),
}
"""Name -> the package it needs, and a layer in it."""


@pytest.fixture(autouse=True, params=[1, 2], ids=["1-thread", "2-threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """So many threads, and no gradients."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    with torch.no_grad():
        yield request.param
    torch.set_num_threads(before)


def measure(
    benchmark: Any, run: Callable[[], object], nbytes: int, group: str, backend: str, threads: int
) -> None:
    """Times `run` in a group with its peers, and notes what it moves."""
    benchmark.group = f"{group}, {threads} thread(s)"
    benchmark(run)
    benchmark.extra_info.update(backend=backend, threads=threads, bytes=nbytes)
    if benchmark.stats is not None:  # not with --benchmark-disable
        benchmark.extra_info["gb_per_s"] = nbytes / benchmark.stats.stats.median / 1e9


@functools.cache
def checked(part: str) -> None:
    """Stops where a kernel is wrong."""
    if part == "state":
        bench_state.gate()
    else:
        bench_perturb.gate(bench_perturb.DTYPES[part])


@functools.lru_cache(maxsize=1)
def params_of(case: str, dtype: str) -> list[Tensor]:
    return weights(LISTS[case], bench_perturb.DTYPES[dtype])


@functools.lru_cache(maxsize=1)
def state_of(case: str) -> bench_state.Lists:
    return bench_state.state(STATE_LISTS[case])


@pytest.mark.parametrize("backend", PASSES)
@pytest.mark.parametrize("dtype", bench_perturb.DTYPES)
@pytest.mark.parametrize("case", LISTS)
def test_perturb(benchmark: Any, case: str, dtype: str, backend: str, threads: int) -> None:
    checked(dtype)
    params = params_of(case, dtype)
    run = bench_perturb.cases(params, dtype, available_isas()[-1:])[backend]
    measure(benchmark, run, moved_bytes(params), f"perturb_ {case}, {dtype}", backend, threads)


@pytest.mark.parametrize("backend", ("zokern", "PyTorch", "floor"))
@pytest.mark.parametrize("op", bench_state.OPS, ids=lambda op: op.name)
@pytest.mark.parametrize("case", STATE_LISTS)
def test_state(benchmark: Any, case: str, op: bench_state.Op, backend: str, threads: int) -> None:
    checked("state")
    lists = state_of(case)
    run = {
        "zokern": functools.partial(op.ours, lists),
        "PyTorch": functools.partial(op.plain, lists),
        "floor": functools.partial(bench_state.bare_foreach, lists[: op.lists]),
    }[backend]
    nbytes = op.nbytes * sum(p.numel() for p in lists[0])
    measure(benchmark, run, nbytes, f"{op.name} {case}", backend, threads)


def tt_run(problem: Problem, backend: str) -> Callable[[], Tensor]:
    """One form of a problem's layer or adapter."""
    if backend not in PEERS:
        cases = bench_tt.adapter_cases(problem) if problem.adapter else bench_tt.linear_cases(problem)
        return cases[backend]
    package, make = PEERS[backend]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install -e '.[bench]'")
    layers = [make(layer, problem.rows) for layer in problem.layers()]
    return functools.partial(tt.as_adapter(*layers) if problem.adapter else layers[0], problem.x())


@pytest.mark.parametrize("backend", (*FORMS, *PEERS))
@pytest.mark.parametrize("rows", bench_tt.ROWS, ids=lambda rows: f"N{rows}")
@pytest.mark.parametrize("rank", (5, 16), ids=lambda rank: f"rank{rank}")
@pytest.mark.parametrize("shape", bench_tt.ADAPTERS[:2], ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("op", ("tt_linear", "tt_adapter"))
def test_tt(
    benchmark: Any, op: str, shape: tuple[int, int], rank: int, rows: int, backend: str, threads: int
) -> None:
    problem = Problem(shape, rank, rows, "fp32", op == "tt_adapter")
    run = tt_run(problem, backend)
    bench_tt.gate(problem, {backend: run})
    nbytes = tt.nbytes(problem.x(), shape[0] if problem.adapter else shape[1], *problem.layers())
    measure(benchmark, run, nbytes, f"{op} {problem.name}, rank {rank}, N {rows}", backend, threads)
