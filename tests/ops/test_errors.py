"""Bad input gets an error that names the argument and the value, and leaves every tensor as it was."""

import pytest
import torch

import zokern
from tests.conftest import Backend, assert_same_bits

GOOD = torch.arange(10.0)


def pair() -> list[torch.Tensor]:
    return [GOOD.clone(), GOOD.clone()]


shared = torch.zeros(20)
BAD = {
    "integer dtype": (lambda p: ([*p, torch.zeros(3, dtype=torch.int32)], 1, 1.0), {}, TypeError, r"params\[2\].*int32"),
    "not a tensor": (lambda p: ([*p, 3.0], 1, 1.0), {}, TypeError, r"params\[2\].*float"),
    "complex": (lambda p: ([*p, torch.zeros(3, dtype=torch.complex64)], 1, 1.0), {}, TypeError, "complex64"),
    "sparse": (lambda p: ([*p, torch.eye(3).to_sparse()], 1, 1.0), {}, TypeError, r"params\[2\].*sparse"),
    "same tensor twice": (lambda p: ([*p, p[0]], 1, 1.0), {}, ValueError, r"params\[0\] and params\[2\] overlap"),
    "overlapping views": (lambda p: ([*p, shared[:12], shared[11:]], 1, 1.0), {}, ValueError, r"params\[2\] and params\[3\]"),
    "expanded": (lambda p: ([*p, torch.zeros(1).expand(4)], 1, 1.0), {}, ValueError, r"params\[2\] overlaps itself"),
    "lengths": (lambda p: (p, [1, 2], [1.0]), {}, ValueError, "scales has 1 entries for 2 seeds"),
    "streams length": (lambda p: (p, 1, 1.0), {"streams": [0]}, ValueError, "streams has 1 entries for 2"),
    "offsets length": (lambda p: (p, 1, 1.0), {"offsets": [0, 1, 2]}, ValueError, "offsets has 3 entries"),
    "negative offset": (lambda p: (p, 1, 1.0), {"offsets": [0, -8]}, ValueError, r"offsets\[1\].*-8"),
    "oversized stream": (lambda p: (p, 1, 1.0), {"streams": [0, 2**32]}, ValueError, r"streams\[1\].*4294967296"),
    "negative seed": (lambda p: (p, [3, -1], [1.0, 1.0]), {}, ValueError, r"seeds\[1\].*-1"),
    "oversized seed": (lambda p: (p, 2**64, 1.0), {}, ValueError, r"seeds\[0\].*18446744073709551616"),
    "float seed": (lambda p: (p, [1.5], [1.0]), {}, TypeError, r"seeds\[0\].*1.5"),
    "boolean seed": (lambda p: (p, [True], [1.0]), {}, TypeError, r"seeds\[0\].*True"),
    "nan scale": (lambda p: (p, [1, 2], [1.0, float("nan")]), {}, ValueError, r"scales\[1\].*nan"),
    "infinite scale": (lambda p: (p, 1, float("inf")), {}, ValueError, r"scales\[0\].*inf"),
    "scale beyond fp32": (lambda p: (p, 1, 1e39), {}, ValueError, r"scales\[0\].*1e\+39"),
    "nan decay": (lambda p: (p, 1, 1.0), {"decay": float("nan")}, ValueError, "decay.*nan"),
    "distribution": (lambda p: (p, 1, 1.0), {"distribution": "cauchy"}, ValueError, "distribution.*'cauchy'"),
    "rounding": (lambda p: (p, 1, 1.0), {"rounding": "up"}, ValueError, "rounding.*'up'"),
    "stochastic without seed": (lambda p: (p, [], []), {"rounding": "stochastic", "decay": 0.5}, ValueError, "seeds="),
    "out length": (lambda p: (p, 1, 1.0), {"out": [torch.zeros(10)]}, ValueError, "out has 1 tensors for 2"),
    "out shape": (lambda p: (p, 1, 1.0), {"out": [torch.zeros(10), torch.zeros(9)]}, ValueError, r"out\[1\] has shape"),
    "out dtype": (lambda p: (p, 1, 1.0), {"out": [torch.zeros(10), torch.zeros(10).int()]}, TypeError, r"out\[1\] has dtype"),
    "scales rows": (lambda p: (p, 1, [[1.0]]), {}, ValueError, "scales has 1 rows for 2 tensors"),
    "scales row": (lambda p: (p, 1, [[1.0], [1.0, 2.0]]), {}, ValueError, r"scales\[1\] has 2 entries for 1 seeds"),
    "scales mixed": (lambda p: (p, 1, [[1.0], 2.0]), {}, TypeError, r"scales\[1\] must be a row"),
    "scales entry": (lambda p: (p, 1, [[1.0], [float("nan")]]), {}, ValueError, r"scales\[1\]\[0\] must be finite"),
    "decay entries": (lambda p: (p, 1, 1.0), {"decay": [1.0] * 3}, ValueError, "decay has 3 entries for 2 tensors"),
    "decay entry": (lambda p: (p, 1, 1.0), {"decay": [1.0, float("inf")]}, ValueError, r"decay\[1\] must be finite"),
    "mixed devices": (lambda p: ([*p, torch.zeros(3, device="meta")], 1, 1.0), {}, ValueError, r"params\[2\] is on meta"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_perturb_rejects(case: tuple) -> None:
    arguments, keywords, error, message = case
    params = pair()
    with pytest.raises(error, match=message):
        zokern.perturb_(*arguments(params), **keywords)
    for p in params:
        assert_same_bits(p, GOOD)


def test_out_may_not_be_what_is_read() -> None:
    p = GOOD.clone()
    with pytest.raises(ValueError, match=r"out\[0\] and params\[0\] overlap"):
        zokern.perturb_([p], 1, 1.0, out=[p])
    assert_same_bits(p, GOOD)


def test_grad_mode_is_refused(backend: Backend) -> None:
    weight = torch.nn.Parameter(GOOD.clone().to(backend.device))
    with pytest.raises(RuntimeError, match=r"params\[0\] requires grad.*no_grad"):
        zokern.perturb_([weight], 1, 1.0)
    assert_same_bits(weight, GOOD)
    with torch.no_grad():
        zokern.perturb_([weight], 1, 1.0)
    assert not torch.equal(weight.detach().cpu(), GOOD)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed": -1}, ValueError, "seed.*-1"),
        ({"seed": "a"}, TypeError, "seed.*'a'"),
        ({"seed": 1, "stream": 2**32}, ValueError, r"stream"),
        ({"seed": 1, "lane": -1}, ValueError, r"lane"),
        ({"seed": 1, "offset": 2**63}, ValueError, r"offset"),
        ({"seed": 1, "dtype": torch.int64}, TypeError, "int64"),
        ({"seed": 1, "distribution": "uniform"}, ValueError, "uniform"),
    ],
)
def test_normal_rejects(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        zokern.normal(4, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 0), "run_seed"),
        ((0, -1, 0), "step"),
        ((0, 0, 2**32), "query"),
        ((2**64, 0, 0), "run_seed"),
    ],
)
def test_derive_seed_rejects(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zokern.derive_seed(*arguments)
