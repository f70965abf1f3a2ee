"""`out=` of another dtype: computed as for the source's dtype, rounded once."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

import zokern
from tests.conftest import Backend, assert_same_bits

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
PAIRS = [(a, b) for a, b in itertools.product(DTYPES, DTYPES) if a != b]
SIXTEEN = (torch.bfloat16, torch.float16)


def ids(pair: tuple[torch.dtype, torch.dtype]) -> str:
    return " to ".join(str(d).removeprefix("torch.") for d in pair)


def values(n: int, dtype: torch.dtype) -> Tensor:
    """Ordinary, subnormal in 16 bits, zero, and beyond the range of float16."""
    generator = torch.Generator().manual_seed(n)
    exponent = torch.randint(-30, 3, (n,), generator=generator)
    exponent[::17] = -140
    exponent[5::97] = 20
    return torch.ldexp(torch.randn(n, generator=generator, dtype=torch.float64), exponent).to(dtype)


def computed(p: Tensor, seeds: list[int], scales: list[float], decay: float, **options: object) -> Tensor:
    """The sum before it is rounded, in float64: exact where p is fp32 arithmetic's, which float64 holds."""
    wide = p.clone() if p.dtype == torch.float64 else p.float()
    with zokern.use_backend("reference"):
        zokern.perturb_(wide, seeds, scales, decay=decay, **options)
    return wide.double()


def spacing(x: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """The distance of the numbers of a 16-bit dtype around x."""
    fraction, least = (7, -126) if dtype == torch.bfloat16 else (10, -14)
    exponent = np.frexp(np.where(x == 0, 1e-300, x))[1] - 1
    return np.ldexp(1.0, np.maximum(exponent, least) - fraction)


def nearest(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x rounded to nearest, ties to even, in float64 arithmetic alone."""
    if dtype not in SIXTEEN:
        return x.to(dtype)
    step = spacing(x.numpy(), dtype)
    return torch.from_numpy(np.rint(x.numpy() / step) * step).to(torch.float32).to(dtype)


@pytest.mark.parametrize("pair", PAIRS, ids=ids)
def test_is_the_sum_rounded_once(backend: Backend, pair: tuple[torch.dtype, torch.dtype]) -> None:
    source, target = pair
    for n, seeds, decay in ((1000, [7], 1.0), (4097, [7, 8, 9], 0.75), (300, [], 0.3), (300, [7], 0.0)):
        p = values(n, source).to(backend.device)
        before = p.clone()
        scales = [1e-3, 0.5, -2.0][: len(seeds)]
        out = torch.full((n,), float("nan"), dtype=target, device=backend.device)
        zokern.perturb_(p, seeds, scales, decay=decay, offsets=[13], out=out)
        assert_same_bits(p, before)
        exact = computed(before.cpu(), seeds, scales, decay, offsets=[13])
        assert_same_bits(out, nearest(exact, target))


def test_float64_is_not_rounded_twice(backend: Backend) -> None:
    # to the middle between two numbers of 16 bits, and a little beyond: fp32 in between would take it for a tie
    for target, half in ((torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)):
        p = torch.tensor([1 + half, 1 + half + 2.0**-40, 1 + half - 2.0**-40], dtype=torch.float64)
        p = torch.cat([p, -p]).to(backend.device)
        out = torch.empty(6, dtype=target, device=backend.device)
        zokern.perturb_(p, [1], [0.0], out=out)
        wanted = torch.tensor([1, 1 + 2 * half, 1], dtype=torch.float64)
        assert_same_bits(out, torch.cat([wanted, -wanted]).to(target))


@pytest.mark.parametrize("target", SIXTEEN, ids=str)
@pytest.mark.parametrize("source", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_stochastic_rounding_takes_the_bits_of_the_first_seed(
    backend: Backend, source: torch.dtype, target: torch.dtype
) -> None:
    if source == target:
        return
    from zokern.reference.normal import rounding_bits

    p = values(2000, source).to(backend.device)
    p[7::97] = float("inf")
    p[11::97] = float("nan")
    out = torch.empty(2000, dtype=target, device=backend.device)
    zokern.perturb_(
        p, [7, 8], [1e-3, 0.5], decay=0.75, streams=[2], offsets=[13], rounding="stochastic", out=out
    )
    exact = computed(p.cpu(), [7, 8], [1e-3, 0.5], 0.75, streams=[2], offsets=[13]).numpy()
    random = rounding_bits(13, 2000, 7, 2, torch.device("cpu")).numpy()
    steps = np.abs(exact) / spacing(exact, target)
    if target == torch.bfloat16:
        up = np.floor(steps + random / 65536.0)
    else:  # 13 bits where the number is normal, all 16 on the grid below
        up = np.floor(steps + np.where(np.abs(exact) < 2.0**-14, random / 65536.0, (random >> 3) / 8192.0))
    wanted = torch.from_numpy(np.copysign(up * spacing(exact, target), exact)).to(torch.float32).to(target)
    finite = torch.from_numpy(np.isfinite(exact)) & (exact_in_fp32(exact, target))
    assert_same_bits(out.cpu()[finite], wanted[finite])
    infinite = torch.from_numpy(np.isinf(exact))
    assert_same_bits(out.cpu()[infinite], torch.from_numpy(exact).to(target)[infinite])
    assert out.cpu()[torch.from_numpy(np.isnan(exact))].isnan().all()


def exact_in_fp32(exact: np.ndarray, target: torch.dtype) -> Tensor:
    """Where the sum of a float16 subnormal and its random bits is exact in the fp32 addition that makes it."""
    if target == torch.bfloat16:
        return torch.from_numpy(np.abs(exact) >= 2.0**-126)
    return torch.from_numpy(np.abs(exact) >= 2.0**-14)


@pytest.mark.parametrize("pair", PAIRS, ids=ids)
def test_all_backends_and_layouts_agree(kernel: Backend, pair: tuple[torch.dtype, torch.dtype]) -> None:
    source, target = pair
    shapes = [(5,), (700,), (33, 41), (70, 600)]
    if kernel.interpreted:
        shapes = shapes[:3]
    params = [values(torch.Size(s).numel(), source).view(s) for s in shapes]
    params.append(values(64 * 90, source).view(90, 64).t())
    params.append(values(50 * 30, source).view(50, 30)[:, 3:20])
    move = {"decay": 0.5, "rounding": "stochastic", "offsets": [3 * i for i in range(len(params))]}
    expected = [torch.empty(p.shape, dtype=target) for p in params]
    with zokern.use_backend("reference"):
        zokern.perturb_(params, [5, 6], [0.1, 3.0], out=expected, **move)
    device = [p.to(kernel.device) for p in params]
    with kernel.use():
        dense = [torch.empty(p.shape, dtype=target, device=kernel.device) for p in params]
        apart = [torch.empty_like(p, dtype=target) for p in device]
        for out in (dense, apart):
            zokern.perturb_(device, [5, 6], [0.1, 3.0], out=out, **move)
            for actual, wanted in zip(out, expected):
                assert_same_bits(actual, wanted)


def test_a_list_may_mix_pairs(backend: Backend) -> None:
    params = [values(500, d).to(backend.device) for d in DTYPES]
    for targets in (DTYPES[::-1], [torch.bfloat16] * 4):
        out = [torch.empty(500, dtype=d, device=backend.device) for d in targets]
        zokern.perturb_(params, 3, 0.1, out=out)
        for i, (p, q) in enumerate(zip(params, out)):
            alone = torch.empty_like(q)
            zokern.perturb_(p, 3, 0.1, streams=[i], out=alone)
            assert_same_bits(q, alone)
