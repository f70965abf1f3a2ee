"""The CUDA tensor-train kernels without a device, against dense weights, the CPU's kernels and themselves.

tests/cuda/emulate_tt.cpp runs the code that nvcc compiles, barriers included, over both launches on the
host; here it takes the place of the CPU backend's ops, so that the public ops call it. Groups are sums in
the CPU's order and have its bits; rows are added in another order (partial sums of the threads of a row),
so they agree with float64 to the tolerance of every backend, and with themselves bit for bit.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import zokern
from tests.conftest import assert_same_bits
from tests.cuda.emulated_tt import Emulated
from tests.tt.conftest import (
    FP32,
    ODD,
    PAPER,
    ROUNDING,
    adapter,
    dense_adapter,
    dense_weight,
    error,
    in_one_buffer,
    make_cores,
    run_adapter,
)
from tests.tt.test_tt_adapter import ACTIVATIONS, DTYPES
from tests.tt.test_tt_queries import SCALES, SEEDS, perturbed_copies
from zokern.call import tt_prepared
from zokern.call.tt_layers import adapter_layers, check_cores
from zokern.native import cpu
from zokern.native.tt_cuda import packed_call, tt_ops

ROOT = Path(__file__).resolve().parents[2]
CASES = {**{name: (m, s, 5) for name, (m, s) in PAPER.items()}, **ODD}


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++ or clang++) to compile the emulation with")
    path = tmp_path_factory.mktemp("emulation") / "emulate_tt.so"
    subprocess.run(
        [compiler, "-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-fPIC",
         "-shared", str(ROOT / "tests/cuda/emulate_tt.cpp"), "-o", str(path)],
        check=True,
    )  # fmt: skip
    return Emulated(path)


@pytest.fixture(params=[1, 4], ids="tiles of {}".format)
def tile(request: pytest.FixtureRequest, emulated: Emulated) -> Iterator[int]:
    emulated.make_tiles_of(request.param)
    yield request.param
    emulated.make_tiles_of(None)


@pytest.fixture
def use(emulated: Emulated, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    @contextlib.contextmanager
    def on() -> Iterator[None]:
        with monkeypatch.context() as patch, zokern.use_backend("cpu"), torch.no_grad():
            tt_prepared.CACHE.clear()
            for name, function in emulated.ops.items():
                patch.setitem(cpu.OPS, name, function)
            yield

    return on


@functools.cache
def weight(name: str) -> torch.Tensor:
    modes, split, ranks = CASES[name]
    return dense_weight(make_cores(modes, ranks), split)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_dense_weight(use, tile, case, dtype):
    modes, split, ranks = CASES[case]
    cores = make_cores(modes, ranks)
    x = torch.randn(5, weight(case).shape[0]).to(dtype)
    bias = torch.randn(weight(case).shape[1])
    with use():
        for groups in ("auto", 2):
            y = zokern.tt_linear(x, cores, split, bias, groups=groups)
            assert error(y, x.double() @ weight(case) + bias) <= FP32 + ROUNDING[dtype]


@pytest.mark.parametrize("case", CASES)
def test_halves_have_the_bits_of_the_cpu(use, emulated, case):
    modes, split, ranks = CASES[case]
    cores = make_cores(modes, ranks, queries=2)
    with zokern.use_backend("cpu"):
        expected = zokern.tt_halves(cores, split)
    with use():
        for a, b in zip(zokern.tt_halves(cores, split), expected):
            assert_same_bits(a, b)


def test_large_halves_are_cut_into_slices(use, emulated):
    cores = make_cores([16, 9, 7, 4, 5, 12], [5, 64, 16, 64, 9])
    with zokern.use_backend("cpu"):
        expected = zokern.tt_halves(cores, 3)
    with use():
        for a, b in zip(zokern.tt_halves(cores, 3), expected):
            assert_same_bits(a, b)
    assert emulated.chosen.group_blocks > 10


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_adapter_equals_dense(use, tile, activation, dtype):
    for hidden, narrow in (([8, 8, 12], [4, 4, 4]), ([61], [8])):
        a = adapter(hidden, narrow)
        x = torch.randn(5, int(torch.tensor(hidden).prod())).to(dtype)
        with use():
            y = run_adapter(x, a, activation=activation, scale=0.5)
        assert error(y, dense_adapter(x, a, activation, 0.5)) <= FP32 + ROUNDING[dtype]


SHAPES = {  # hidden modes, bottleneck modes, ranks, rows: what they make the kernel do
    "4096 rank 5": ([16, 16, 16], [4, 4, 4], 5, 3),
    "4096 rank 16": ([16, 16, 16], [4, 4, 4], 16, 2),
    "a wide bottleneck": ([8, 8, 9], [8, 8, 8], 3, 2),
    "tiles of four and a rest": ([8, 8, 8], [2, 2], 2, 7),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_does_not_depend_on_the_order_of_threads(use, emulated, tile, shape, dtype):
    """A missing barrier would show; so would a part of the workspace or of y that nothing writes."""
    hidden, narrow, ranks, rows = SHAPES[shape]
    a = adapter(hidden, narrow, ranks)
    x = torch.randn(rows, a["up_bias"].numel()).to(dtype)
    results = []
    for backwards in (False, True):
        emulated.backwards = backwards
        with use():
            results.append(run_adapter(x, a, out=torch.full_like(x, float("nan"))))
    emulated.backwards = False
    assert_same_bits(*results)
    assert error(results[0], dense_adapter(x, a)) <= FP32 + ROUNDING[dtype]


def test_kept_rows_and_vectors(use, emulated):
    """At hidden 4096 x stays in shared memory and moves 16 bytes at a time, whatever the alignment of the
    cores; rows that do not allow it go by element."""
    a = adapter([16, 16, 16], [4, 4, 4])
    a["up_bias"] = torch.cat([torch.zeros(1), a["up_bias"]])[1:]
    assert a["up_bias"].data_ptr() % 16 != 0
    for dtype, vector in ((torch.bfloat16, 8), (torch.float32, 4)):
        x = torch.randn(2, 4096).to(dtype)
        with use():
            y = run_adapter(x, a)
            chosen = emulated.chosen
            assert (chosen.x_vector, chosen.y_vector) == (vector, vector)
            assert chosen.keep_stride == 4096 * x.element_size() and not chosen.in_workspace
            assert 4 * chosen.floats <= 80 * 1024
            shifted = torch.empty(2, 4099, dtype=dtype)[:, 1:4097].copy_(x)
            assert error(run_adapter(shifted, a), y.double()) <= FP32 + ROUNDING[dtype]
            assert (emulated.chosen.x_vector, emulated.chosen.y_vector) == (1, 1)


def test_sizes_beyond_shared_memory(use, emulated):
    """Tiles go to the workspace; several of them share a block's."""
    a = adapter([2, 3], [170, 150], 2)
    x = torch.randn(2, 6)
    with use():
        y = run_adapter(x, a)
    assert emulated.chosen.in_workspace and emulated.chosen.floats * 4 > 80 * 1024
    assert error(y, dense_adapter(x, a)) <= FP32
    cores = make_cores([4, 6, 3, 5], [3, 900, 4])  # a rank beyond every other size
    x = torch.randn(9, 24)
    with use():
        assert error(zokern.tt_linear(x, cores, 2), x.double() @ dense_weight(cores, 2)) <= FP32


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("stream, offset", [(0, 0), (7, 133), (2**32 - 1, 2**40 + 5)])
def test_noise_equals_perturbed_copies_bit_for_bit(use, stream, offset, distribution):
    flat, a, offsets = in_one_buffer(adapter([4, 6], [2, 3]))
    x, stored = torch.randn(6, 24), flat.clone()
    noise = zokern.TTNoise(SEEDS, SCALES, [o + offset for o in offsets], stream, distribution)
    copies = flat.expand(len(SEEDS), -1).clone()
    for copy, seed, scale in zip(copies, SEEDS, SCALES):
        zokern.perturb_([flat], [seed], [scale], streams=[stream], offsets=[offset], out=[copy],
                        distribution=distribution)  # fmt: skip
    explicit = perturbed_copies(flat, a, stream, offset) if distribution == "gaussian" else None
    with use():
        y = run_adapter(x, a, noise=noise)
        if explicit is not None:
            assert_same_bits(y, run_adapter(x, explicit))
        for p in range(3):
            views, at = [], 0
            for t in [*a["down"], a["down_bias"], *a["up"], a["up_bias"]]:
                views.append(copies[p, at : at + t.numel()].view(t.shape))
                at += t.numel()
            n = len(a["down"])
            one = {**a, "down": views[:n], "down_bias": views[n]}
            one |= {"up": views[n + 1 : -1], "up_bias": views[-1]}
            assert_same_bits(y[2 * p : 2 * p + 2], run_adapter(x[2 * p : 2 * p + 2], one))
    assert_same_bits(flat, stored)


def test_more_queries_than_a_launch_takes(use, emulated):
    cores = make_cores([3, 2, 2, 2], 2)
    x = torch.randn(259, 6)
    noise = zokern.TTNoise(range(259), [0.5] * 259, [0, None, 3, 40])
    with use():
        y = zokern.tt_linear(x, cores, 2, noise=noise)
        for p in (0, 255, 256, 258):
            one = zokern.TTNoise([p], [0.5], noise.offsets)
            assert_same_bits(y[p : p + 1], zokern.tt_linear(x[p : p + 1], cores, 2, noise=one))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_in_place_and_wide_out(use, tile, dtype):
    a = adapter([8, 8, 12], [2, 2])
    x = torch.randn(3, 768).to(dtype)
    cores = make_cores([8, 8, 8, 8, 8, 8], 3)
    z = torch.randn(3, 512).to(dtype)
    with use():
        y = run_adapter(x, a)
        wide = run_adapter(x, a, out=torch.empty(3, 768))
        assert_same_bits(wide.to(dtype), y)
        assert_same_bits(run_adapter(x, a, out=x), y)
        y = zokern.tt_linear(z, cores, 3)
        assert_same_bits(zokern.tt_linear(z, cores, 3, out=z), y)


def test_reads_and_writes_nothing_else(use):
    """NaN lies next to everything read, and what lies next to out stays."""

    def fenced(t: torch.Tensor) -> torch.Tensor:
        room = torch.full((t.numel() + 64,), float("nan"), dtype=t.dtype)
        room[32 : 32 + t.numel()] = t.reshape(-1)
        return room[32 : 32 + t.numel()].view(t.shape)

    for modes, split, ranks in ODD.values():
        cores = make_cores(modes, ranks)
        x = torch.randn(3, zokern.tt_cost(cores, split).in_features)
        with use():
            y = zokern.tt_linear(x, cores, split)
            out = fenced(torch.zeros_like(y))
            zokern.tt_linear(fenced(x), [fenced(c) for c in cores], split, out=out)
        assert error(out, y.double()) <= FP32
        around = out.as_strided((out.numel() + 64,), (1,), out.storage_offset() - 32)
        assert around[:32].isnan().all() and around[-32:].isnan().all()


def test_too_many_cores_are_refused(use):
    noise = zokern.TTNoise([1], [1.0], range(200))
    with use(), pytest.raises(RuntimeError, match="status 6"):  # ZK_TOO_LARGE
        zokern.tt_linear(torch.ones(1, 1), [torch.ones(1, 1, 1)] * 200, 1, noise=noise)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")
def test_bindings_without_a_device_say_so():
    """The real bindings plan the call, then report what CUDA says."""
    ops, a = tt_ops(cpu._C, lambda _: (0, 0)), adapter([4, 6], [2, 3])
    down, up = adapter_layers(a["down"], a["up"], 2, 2, a["down_bias"], a["up_bias"])
    x, cores = torch.randn(2, 24), check_cores("cores", a["down"], "split", 2)
    noise = zokern.TTNoise([3, 4], [1.0, 2.0], range(len(down.tensors) + len(up.tensors)))
    with pytest.raises(RuntimeError, match="CUDA"):
        ops["tt_adapter"](x, x, down, up, "relu", 1.0, 2, noise)
    with pytest.raises(RuntimeError, match="CUDA"):
        ops["tt_halves"](cores, torch.empty(24, 5), torch.empty(5, 6))
    with pytest.raises(ValueError, match="noise needs offsets, and one seed and one scale a query"):
        cpu._C.cuda_tt_workspace(*packed_call(x, x, [down, up], "relu", 1.0, None, noise))
