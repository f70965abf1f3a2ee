"""`normal_`, and `perturb_` with decay 0: what was in memory does not matter."""

import pytest
import torch

import zokern
from tests.conftest import Backend, assert_same_bits

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SHAPES = [(1000,), (3,), (257,), (33, 40), (0, 5)]
POISON = [float("nan"), float("inf"), -float("inf"), 3e38, -0.0]


def poisoned(device: str, brief: bool = False) -> list[torch.Tensor]:
    """Memory of every dtype, dense and strided, that holds what arithmetic carries on."""
    params = []
    for dtype in DTYPES:
        for shape in SHAPES[2:3] if brief else SHAPES:
            params.append(torch.zeros(shape, dtype=dtype, device=device))
        params.append(torch.zeros(70, 30, dtype=dtype, device=device).t())
        params.append(torch.zeros(40, 30, dtype=dtype, device=device)[:, 3:17])
    for p in params:
        values = torch.tensor(POISON, dtype=torch.float64).repeat(p.numel() // 5 + 1)[: p.numel()]
        p.copy_(values.view(p.shape))
    return params


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("seeds, scales", [([7], [0.5]), ([7, 8, 2**64 - 1], [0.5, -2.0, 1e-3])])
def test_fills_whatever_was_there(
    backend: Backend, seeds: list[int], scales: list[float], rounding: str, distribution: str
) -> None:
    options = {"rounding": rounding, "distribution": distribution}
    brief = backend.interpreted  # a second a tensor
    expected = [torch.zeros_like(p) for p in poisoned("cpu", brief)]
    with zokern.use_backend("reference"):
        zokern.perturb_(expected, seeds, scales, **options)
    filled, decayed, source = (poisoned(backend.device, brief) for _ in range(3))
    out = [torch.empty_like(p).fill_(float("nan")) for p in source]
    zokern.normal_(filled, seeds, scales, **options)
    zokern.perturb_(decayed, seeds, scales, decay=0.0, **options)
    zokern.perturb_(source, seeds, scales, decay=0.0, out=out, **options)
    for p, q, r, e in zip(filled, decayed, out, expected):
        for actual in (p, q, r):
            assert_same_bits(actual, e)


def test_is_normal_with_one_seed(backend: Backend) -> None:
    p = torch.full((1000,), float("nan"), device=backend.device)
    zokern.normal_(p, 9, streams=[4], offsets=[123])
    assert_same_bits(p, zokern.normal(1000, 9, stream=4, offset=123, device=backend.device))
    halves = [p[:300], p[300:]]
    p.fill_(float("nan"))
    zokern.normal_(halves, 9, streams=[4, 4], offsets=[123, 423])
    assert_same_bits(p, zokern.normal(1000, 9, stream=4, offset=123, device=backend.device))


def test_without_seeds_it_zeroes(backend: Backend) -> None:
    p = torch.full((300,), float("nan"), device=backend.device)
    zokern.normal_(p, [], [])
    assert_same_bits(p, torch.zeros(300))


def test_masked_elements_may_hold_anything(backend: Backend) -> None:
    p = torch.full((600,), float("nan"), device=backend.device)
    mask = torch.arange(600, device=backend.device) % 3 == 0
    zokern.ops.perturb_masked_(p, 7, 0.5, masks=mask, decay=0.0)
    z = torch.zeros(600, device=backend.device)
    zokern.normal_(z, 7, 0.5)
    assert_same_bits(p[mask], z[mask])
    assert p[~mask].isnan().all()


def test_the_op_of_one_tensor_stays() -> None:
    p = torch.empty(100)
    torch.ops.zokern.normal_(p, 9, 4, 0, 123, "gaussian")
    assert_same_bits(p, zokern.normal(100, 9, stream=4, offset=123))


def test_rejects_by_name() -> None:
    with pytest.raises(ValueError, match=r"scales has 1 entries for 2 seeds"):
        zokern.normal_(torch.empty(3), [1, 2])
    with pytest.raises(TypeError, match=r"params\[0\]"):
        zokern.normal_(torch.empty(3, dtype=torch.int32), 1)
