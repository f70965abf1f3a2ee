"""What `perturb_` promises: one truth on every backend, whatever the list, chunk, shard or stride."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import zokern
from tests.conftest import Backend, assert_same_bits

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
# 0, 1, around a block of 8, around a vector, around a tile of 256, several tiles, an odd number of chunks
SIZES = [0, 1, 3, 4, 5, 7, 8, 9, 31, 33, 255, 256, 257, 1000, 4097]
LARGE = 200_003  # several chunks, so several threads


def values(n: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Weights of many magnitudes: ordinary, subnormal in 16 bits, zero."""
    generator = torch.Generator().manual_seed(seed)
    exponent = torch.randint(-30, 3, (n,), generator=generator)
    exponent[::17] = -120
    return torch.ldexp(torch.randn(n, generator=generator), exponent).to(dtype)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


moves = st.fixed_dictionaries(
    {
        "seeds": st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5),
        "decay": st.sampled_from([1.0, 0.999, -0.5, 0.0]),
        "stream": st.integers(0, 2**32 - 1),
        "offset": st.one_of(
            st.integers(0, 2000),
            st.integers(2**35 - 600, 2**35 + 600),
            st.integers(0, 2**63 - 5000),
        ),
        "size": st.sampled_from(SIZES[1:]),
        "dtype": st.sampled_from(DTYPES),
        "distribution": st.sampled_from(["gaussian", "rademacher"]),
        "rounding": st.sampled_from(["nearest", "stochastic"]),
        "elsewhere": st.booleans(),
        "layout": st.sampled_from(["dense", "transposed", "every third"]),
        "scale": st.sampled_from([1e-3, -2e-3, 1.0, 1e-30, 3e4]),
    }
)


def laid_out(flat: torch.Tensor, layout: str) -> torch.Tensor:
    """The same logical elements with other strides."""
    if layout == "transposed" and flat.numel() % 4 == 0:
        return flat.view(4, -1).t().contiguous().t()
    if layout == "every third":
        wide = torch.full((flat.numel(), 3), 77.0, dtype=flat.dtype, device=flat.device)
        wide[:, 1] = flat
        return wide[:, 1]
    return flat


def test_all_backends_agree_bit_for_bit(kernel: Backend) -> None:
    @settings(
        max_examples=12 if kernel.interpreted else 60,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(moves)
    def check(move: dict) -> None:
        start = values(move["size"], move["dtype"], seed=move["size"])
        scales = [move["scale"] * (1 + k) for k in range(len(move["seeds"]))]
        keywords = {
            "decay": move["decay"], "streams": [move["stream"]], "offsets": [move["offset"]],
            "distribution": move["distribution"], "rounding": move["rounding"],
        }  # fmt: skip
        expected = start.clone()
        with zokern.use_backend("reference"):
            zokern.perturb_(expected, move["seeds"], scales, **keywords)
        actual = laid_out(start.clone().to(kernel.device), move["layout"])
        out = torch.empty_like(actual) if move["elsewhere"] else None
        with kernel.use():
            zokern.perturb_(actual, move["seeds"], scales, out=out, **keywords)
        if out is not None:
            assert_same_bits(actual.reshape(-1), start)
            actual = out
        assert_same_bits(actual.reshape(-1), expected)

    check()


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_large_list_equals_reference(kernel: Backend, dtype: torch.dtype) -> None:
    sizes = [5000, 1] if kernel.interpreted else [LARGE, 0, 1, 4097, 65536]
    start = [values(n, dtype, seed=n) for n in sizes]
    expected = [p.clone() for p in start]
    with zokern.use_backend("reference"):
        zokern.perturb_(expected, [3, 2**64 - 1], [1e-3, -0.5], decay=0.99)
    actual = [p.clone().to(kernel.device) for p in start]
    with kernel.use():
        zokern.perturb_(actual, [3, 2**64 - 1], [1e-3, -0.5], decay=0.99)
    for a, e in zip(actual, expected):
        assert_same_bits(a, e)


def test_does_not_depend_on_how_the_list_is_split_or_ordered(backend: Backend) -> None:
    start = [values(n, torch.float32, seed=n).to(backend.device) for n in (300, 5, 1000, 64)]
    whole = [p.clone() for p in start]
    zokern.perturb_(whole, 5, 0.1)
    one_by_one = [p.clone() for p in start]
    for stream, p in reversed(list(enumerate(one_by_one))):
        zokern.perturb_([p], 5, 0.1, streams=[stream])
    order = [2, 0, 3, 1]
    permuted = [start[i].clone() for i in order]
    zokern.perturb_(permuted, 5, 0.1, streams=order)
    for i, p in enumerate(whole):
        assert_same_bits(one_by_one[i], p)
        assert_same_bits(permuted[order.index(i)], p)


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_does_not_depend_on_sharding(backend: Backend, distribution: str) -> None:
    start = values(1500, torch.bfloat16).to(backend.device)
    whole = start.clone()
    zokern.perturb_(whole, 5, 0.1, distribution=distribution, rounding="stochastic")
    cuts = [0, 1, 250, 256, 900, 1499, 1500]
    shards = [start[a:b].clone() for a, b in zip(cuts, cuts[1:])]
    zokern.perturb_(
        shards, 5, 0.1, streams=[0] * 6, offsets=cuts[:-1],
        distribution=distribution, rounding="stochastic",
    )  # fmt: skip
    assert_same_bits(torch.cat(shards), whole)


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_does_not_depend_on_threads(isa: str) -> None:
    from zokern.native.cpu import available_isas

    if isa not in available_isas():
        pytest.skip(f"this CPU does not run {isa}")
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            p = values(LARGE, torch.bfloat16)
            with zokern.use_backend("cpu", isa=isa):
                zokern.perturb_([p, p.clone()], [1, 2], [0.1, 0.2], rounding="stochastic")
            results.append(p)
    finally:
        torch.set_num_threads(before)
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_equals_normal_on_zeros(backend: Backend) -> None:
    p = torch.zeros(1000, device=backend.device)
    zokern.perturb_([p], 9, 1.0, streams=[4], offsets=[123])
    z = zokern.normal(1000, 9, stream=4, offset=123, device=backend.device)
    assert_same_bits(p, z)


def test_several_seeds_in_one_pass_round_once(backend: Backend) -> None:
    start = values(1000, torch.bfloat16).to(backend.device)
    together = start.clone()
    zokern.perturb_(together, [1, 2, 3], [1e-2, 2e-2, 3e-2])
    exact = start.float()
    zokern.perturb_(exact, [1, 2, 3], [1e-2, 2e-2, 3e-2])
    assert_same_bits(together, exact.bfloat16())


def test_flip_and_restore_of_fp32_drifts_by_rounding_only(backend: Backend) -> None:
    start = (0.02 * zokern.normal(4096, 1, device=backend.device)).float()
    p = start.clone()
    for scale in (1e-3, -2e-3, 1e-3):
        zokern.perturb_(p, 7, scale)
    assert (p - start).abs().max() <= 3 * 2**-24 * start.abs().max() + 3e-9


def test_seeds_streams_and_lanes_draw_unrelated_noise(backend: Backend) -> None:
    n = 4096
    draws = torch.stack(
        [
            zokern.normal(n, seed, stream=stream, lane=lane, device=backend.device)
            for seed, stream, lane in [
                (0, 0, 0),
                (1, 0, 0),
                (0, 1, 0),
                (0, 0, 1),
                (2**32, 0, 0),
                (2**63, 0, 0),
            ]
        ]
    ).double()
    correlation = torch.corrcoef(draws) - torch.eye(len(draws), device=draws.device)
    assert correlation.abs().max() < 5 / n**0.5


def test_decay_alone_needs_no_seed(backend: Backend) -> None:
    p = torch.tensor([1.0, -2.0, -0.0], device=backend.device)
    zokern.perturb_(p, [], [], decay=0.5)
    assert_same_bits(p, torch.tensor([0.5, -1.0, -0.0]))


def test_empty_list_and_empty_tensors_are_fine(backend: Backend) -> None:
    zokern.perturb_([], 1, 1.0)
    empty = torch.empty(0, 3, device=backend.device)
    p = torch.zeros(8, device=backend.device)
    zokern.perturb_([empty, p], 1, 1.0)
    assert_same_bits(p, zokern.normal(8, 1, stream=1, device=backend.device))


def test_stochastic_rounding_moves_the_mean_by_the_right_amount(backend: Backend) -> None:
    n, update = 4096 if backend.interpreted else 40_000, 1e-6
    p = torch.full((n,), 0.02, dtype=torch.bfloat16, device=backend.device)
    start = p.float().mean()
    steps = 20
    for step in range(steps):
        zokern.perturb_(p, [100 + step], [update], distribution="rademacher", rounding="stochastic")
        zokern.perturb_(p, [], [], decay=1.0)
    drift = (p.float().mean() - start).item()
    # 20 steps of zero-mean noise: the mean of n elements stays within 5 standard errors; one bf16
    # step at 0.02 is 1.2e-4 and is taken with probability up to update / 1.2e-4
    step_size = 2.0**-13
    error = step_size * (steps * update / step_size / n) ** 0.5
    assert abs(drift) < 5 * error
    assert (p.float() != start).float().mean() > 0.5 * steps * update / step_size
    still = torch.full((n,), 0.02, dtype=torch.bfloat16, device=backend.device)
    zokern.perturb_(still, [100], [update], distribution="rademacher")
    assert (still.float() == start).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=name_of)
def test_inf_and_nan_stay_what_they_are(backend: Backend, dtype: torch.dtype) -> None:
    for rounding in ("nearest", "stochastic"):
        p = torch.tensor([float("inf"), -float("inf"), float("nan")] * 3, dtype=dtype, device=backend.device)
        zokern.perturb_(p, [2], [1.0], rounding=rounding)
        assert torch.isposinf(p[::3]).all() and torch.isneginf(p[1::3]).all() and p[2::3].isnan().all()


def test_moments_of_a_million_normals() -> None:
    n = 1_000_000
    z = zokern.normal(n, 2026).double().numpy()
    # the standard error of the k-th moment of a standard normal
    for order, expected, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)]:
        assert abs(np.mean(z**order) - expected) < 4.5 * (variance / n) ** 0.5
    assert abs(np.mean(z[1:] * z[:-1])) < 4.5 / n**0.5
    assert np.abs(z).max() <= 5.768


def test_versions_are_bumped_so_that_autograd_notices() -> None:
    weight = torch.nn.Parameter(torch.randn(3))
    loss = (weight * weight).sum()
    with torch.no_grad():
        zokern.perturb_([weight], 1, 0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_fake_tensors_and_compile_see_an_opaque_op() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.no_grad():
        p = torch.empty(10)
        torch.ops.zokern.perturb_([p], [1], [1.0], 1.0, [0], [0], "gaussian", "nearest")
    torch.library.opcheck(
        torch.ops.zokern.perturb_.default,
        ([torch.randn(10)], [1], [1.0], 1.0, [0], [0], "gaussian", "nearest"),
        test_utils=("test_schema", "test_faketensor"),
    )
