"""`tt_linear` and `tt_halves` against the dense weight in float64, whatever the shape and layout."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import zokern
from tests.conftest import Backend, assert_same_bits
from tests.tt.conftest import (
    FP32,
    ODD,
    PAPER,
    ROUNDING,
    dense_weight,
    error,
    layers,
    make_cores,
    serving,
    to,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
CASES = {**{name: (m, s, 5) for name, (m, s) in PAPER.items()}, **ODD}
# 1, around a tile of 8 rows and a block of 4, a few tiles
ROWS = [1, 2, 3, 4, 7, 8, 9, 21]


def check(backend: Backend, modes, split, ranks, rows, dtype, groups="auto", bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cores = make_cores(modes, ranks, seed=seed)
    plan = zokern.tt_cost(cores, split)
    x = torch.randn(rows, plan.in_features, generator=generator).to(dtype)
    b = torch.randn(plan.out_features, generator=generator) if bias else None
    expected = x.double() @ dense_weight(cores, split) + (b.double() if bias else 0)
    device = backend.device
    y = zokern.tt_linear(
        x.to(device), to(cores, device), split, b.to(device) if bias else None, groups=groups
    )
    assert y.dtype == dtype and y.shape == (rows, plan.out_features)
    assert error(y, expected) <= FP32 + ROUNDING[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_dense_weight(tt_backend, case, dtype):
    modes, split, ranks = CASES[case]
    if tt_backend.interpreted and case in ("4096x64", "64x4096", "8x4096"):
        pytest.skip("minutes under the interpreter; test_backward and others run smaller ones")
    check(tt_backend, modes, split, ranks, 9, dtype)


@pytest.mark.parametrize("backend", serving(), ids=str)
def test_equals_the_dense_weight_for_any_layer(backend):
    if backend.unavailable():
        pytest.skip(backend.unavailable())

    @settings(
        max_examples=8 if backend.interpreted else 60,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(
        layers(), st.sampled_from(ROWS), st.sampled_from(DTYPES), st.sampled_from(["auto", 2, 3, 4]),
        st.booleans(), st.integers(0, 1000),
    )  # fmt: skip
    def run(layer, rows, dtype, groups, bias, seed):
        modes, split, ranks = layer
        if (groups == 3 and len(modes) == 2) or (groups == 4 and 1 in (split, len(modes) - split)):
            groups = "auto"
        # a lone output may cancel to nothing: its error relative to itself says nothing of the kernel
        rows = max(rows, -(-8 // math.prod(modes[split:])))
        with backend.use():
            check(backend, modes, split, ranks, rows, dtype, groups, bias, seed)

    run()


@pytest.mark.parametrize("rank", [5, 8, 16, 24, 33])
def test_any_rank_at_a_width_of_vectors(cpu, rank):
    check(cpu, [16, 16, 16, 4, 4, 4], 3, rank, 7, torch.float32)
    check(cpu, [4, 4, 4, 16, 16, 16], 3, rank, 7, torch.float32)


@pytest.mark.parametrize("shape", [(), (1,), (4, 1), (1, 1, 1), (2, 3, 5), (0,), (3, 0, 2)], ids=str)
def test_keeps_leading_sizes(tt_backend, shape):
    device = tt_backend.device
    cores = to(make_cores([4, 6, 3, 5], 3), device)
    x = torch.randn(*shape, 24, device=device)
    y = zokern.tt_linear(x, cores, 2)
    assert y.shape == (*shape, 15)
    expected = x.double().cpu() @ dense_weight(cores, 2)
    assert y.numel() == 0 or error(y, expected) <= FP32


def strided_inputs() -> dict:
    generator = torch.Generator().manual_seed(3)
    wide = torch.randn(5, 3, 70, generator=generator)
    return {
        "a slice of wider rows": wide[:, :, 4:28],
        "every other row": torch.randn(10, 24, generator=generator)[::2],
        "batch and sequence exchanged": wide[:, :, :24].transpose(0, 1),
        "columns": torch.randn(24, 6, generator=generator).t(),
        "one row repeated": torch.randn(1, 24, generator=generator).expand(6, 24),
        "every second element": torch.randn(6, 48, generator=generator)[:, ::2],
    }


@pytest.mark.parametrize("name", strided_inputs())
def test_does_not_depend_on_strides(tt_backend, name):
    device = tt_backend.device
    cores = to(make_cores([4, 6, 3, 5], 3), device)
    base = strided_inputs()[name]
    x = torch.empty_strided(base.shape, base.stride(), device=device).copy_(base) if (
        "repeated" not in name
    ) else base[:1].to(device).expand(6, 24)  # fmt: skip
    dense = zokern.tt_linear(x.contiguous(), cores, 2)
    assert_same_bits(zokern.tt_linear(x, cores, 2), dense)
    out = torch.full((*x.shape[:-1], 40), 7.0, device=device)
    zokern.tt_linear(x, cores, 2, out=out[..., 11:26])
    assert_same_bits(out[..., 11:26], dense)
    assert (out[..., :11] == 7).all() and (out[..., 26:] == 7).all()
    columns = torch.empty(15, *x.shape[:-1], device=device).movedim(0, -1)
    zokern.tt_linear(x, cores, 2, out=columns)
    assert_same_bits(columns, dense)


def test_reads_nothing_beyond_x_and_the_cores(cpu):
    """NaN lies next to everything read, and the values written next to out stay."""

    def fenced(t: torch.Tensor) -> torch.Tensor:
        room = torch.full((t.numel() + 64,), float("nan"), dtype=t.dtype)
        room[32 : 32 + t.numel()] = t.reshape(-1)
        return room[32 : 32 + t.numel()].view(t.shape)

    for modes, split, ranks in ODD.values():
        cores = make_cores(modes, ranks)
        plan = zokern.tt_cost(cores, split)
        for dtype in DTYPES:
            x = torch.randn(5, plan.in_features).to(dtype)
            y = zokern.tt_linear(x, cores, split)
            out = fenced(torch.zeros_like(y))
            zokern.tt_linear(fenced(x), [fenced(c) for c in cores], split, out=out)
            assert_same_bits(out, y)
            around = out.as_strided((out.numel() + 64,), (1,), out.storage_offset() - 32)
            assert around[:32].isnan().all() and around[-32:].isnan().all()


def test_writes_every_element(tt_backend):
    device = tt_backend.device
    cores = to(make_cores([7, 9, 5, 3], [16, 17, 2]), device)
    x = torch.randn(9, 63, device=device)
    out = torch.full((9, 15), float("nan"), device=device)
    assert zokern.tt_linear(x, cores, 2, out=out) is out
    assert_same_bits(out, zokern.tt_linear(x, cores, 2))


def test_in_place_where_sizes_agree(cpu):
    cores = make_cores([6, 8, 8, 6], 4)
    x = torch.randn(19, 48)
    expected = zokern.tt_linear(x, cores, 2)
    version = x._version
    assert zokern.tt_linear(x, cores, 2, out=x) is x
    assert_same_bits(x, expected)
    assert x._version > version


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_wide_out_is_not_rounded(tt_backend, dtype):
    device = tt_backend.device
    cores = to(make_cores([8, 8, 4, 4], 5), device)
    x = torch.randn(11, 64, device=device).to(dtype)
    wide = zokern.tt_linear(x, cores, 2, out=torch.empty(11, 16, device=device))
    assert error(wide, x.double().cpu() @ dense_weight(cores, 2)) <= FP32
    assert_same_bits(wide.to(dtype), zokern.tt_linear(x, cores, 2))


def test_all_instruction_sets_and_threads_give_the_same_bits():
    """And rows do not depend on their neighbours: any cut of x gives the rows of the whole."""
    backends = [b for b in serving() if b.name == "cpu" and not b.unavailable()]
    assert next(b.isa for b in backends) == "portable"
    before = torch.get_num_threads()
    for modes, split, ranks in [*CASES.values(), ([16, 16, 8, 8], 2, 48)]:
        cores = make_cores(modes, ranks)
        plan = zokern.tt_cost(cores, split)
        x = torch.randn(37, plan.in_features).bfloat16()
        results = []
        for b in backends:
            with b.use():
                results.append(zokern.tt_linear(x, cores, split, groups=plan.groups))
        with backends[-1].use():
            results.append(torch.cat([zokern.tt_linear(x[i : i + 5], cores, split, groups=plan.groups)
                                      for i in range(0, 37, 5)]))  # fmt: skip
        for other in results[1:]:
            assert_same_bits(other, results[0])
    try:
        cores = make_cores([16, 16, 16, 4, 4, 4], 16)
        x = torch.randn(2000, 4096)
        with backends[-1].use():
            torch.set_num_threads(1)
            one = zokern.tt_linear(x, cores, 3)
            for threads in (2, 3, 7):
                torch.set_num_threads(threads)
                assert_same_bits(zokern.tt_linear(x, cores, 3), one)
    finally:
        torch.set_num_threads(before)


def test_halves_equal_the_dense_weight(tt_backend):
    device = tt_backend.device
    for modes, split, ranks in CASES.values():
        if tt_backend.interpreted and max(modes) > 12:
            continue
        cores = make_cores(modes, ranks)
        a, b = zokern.tt_halves(to(cores, device), split)
        plan = zokern.tt_cost(cores, split)
        assert a.shape == (plan.in_features, plan.rank) and b.shape == (plan.rank, plan.out_features)
        assert error(a.double() @ b.double(), dense_weight(cores, split)) <= FP32


def test_halves_of_queries_are_those_of_each(tt_backend):
    device = tt_backend.device
    cores = to(make_cores([4, 6, 3, 5], [3, 2, 4], queries=3), device)
    a, b = zokern.tt_halves(cores, 2)
    assert a.shape == (3, 24, 2) and b.shape == (3, 2, 15)
    for p in range(3):
        left, right = zokern.tt_halves([c[p].contiguous() for c in cores], 2)
        assert error(a[p], left.double().cpu()) <= FP32 and error(b[p], right.double().cpu()) <= FP32


def test_large_halves_do_not_depend_on_threads(cpu):
    """Large enough for a thread a half."""
    cores = make_cores([16, 16, 16, 16], 64)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = zokern.tt_halves(cores, 2)
        torch.set_num_threads(2)
        two = zokern.tt_halves(cores, 2)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(one, two):
        assert_same_bits(a, b)


def test_cores_that_are_not_dense_are_read_right(tt_backend):
    device = tt_backend.device
    cores = to(make_cores([4, 6, 3, 5], 3), device)
    turned = [c.permute(2, 1, 0).contiguous().permute(2, 1, 0) for c in cores]
    x = torch.randn(4, 24, device=device)
    assert not turned[1].is_contiguous()
    assert_same_bits(zokern.tt_linear(x, turned, 2), zokern.tt_linear(x, cores, 2))
