"""What all ops with state or masks promise: one truth on every backend, no memory, errors before writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import zokern
from tests.conftest import Backend, assert_same_bits, bits
from tests.ops.states import CASES, agrees
from tests.ops.test_perturb import LARGE, values

ANSWERS = json.loads((Path(__file__).parent.parent / "known_answers" / "state_v1.json").read_text())

# Each op on lists (params, m, v), with keywords: the shapes of arguments that the tests below share.
OPS: dict[str, Callable[..., None]] = {
    "adam_": lambda p, m, v, **k: zokern.adam_(p, m, v, [3, 4], [0.5, -2.0], lr=1e-2, step=2, **k),
    "adamu_probe_": lambda p, m, v, **k: zokern.adamu_probe_(p, m, 3, 0.1, alpha=0.7, beta1=0.9, **k),
    "adamu_update_": lambda p, m, v, **k: zokern.adamu_update_(
        p, m, 3, 0.5, lr=1e-2, alpha=0.7, beta1=0.9, beta2=0.3, displacement=-0.1, **k
    ),
    "perturb_masked_": lambda p, m, v, **k: zokern.perturb_masked_(
        p, [3, 4], [0.1, 0.2], thresholds=0.5, **k
    ),
}
ALL = pytest.mark.parametrize("op", OPS)


def lists(
    sizes: list[int], dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> list[list[torch.Tensor]]:
    """Params, m and v: of every size one."""
    params = [values(n, dtype, seed=n).to(device) for n in sizes]
    m = [values(n, torch.float32, seed=n + 1).to(device) for n in sizes]
    return [params, m, [x.square() for x in m]]


def copies(tensors: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    return [[t.clone() for t in each] for each in tensors]


@pytest.mark.parametrize("op", CASES)
def test_all_backends_agree_bit_for_bit(kernel: Backend, op: str) -> None:
    agrees(kernel.use, kernel.device, *CASES[op], examples=15 if kernel.interpreted else 40)


@pytest.mark.parametrize("case", ANSWERS, ids=lambda c: f"{c['op']}-{c['dtype']}-{c['name']}")
def test_every_backend_gives_the_published_bits(backend: Backend, case: dict[str, Any]) -> None:
    tensors = {
        name: torch.tensor(start, dtype=torch.float64).to(getattr(torch, case["dtype"] if name == "params" else "float32"))
        for name, start in case["start"].items()
    }  # fmt: skip
    tensors = {name: t.to(backend.device) for name, t in tensors.items()}
    getattr(zokern, case["op"])(**tensors, **case["arguments"])
    for name, expected in case["bits"].items():
        width = 8 * tensors[name].element_size()
        assert [f"{b & ((1 << width) - 1):0{width // 4}x}" for b in bits(tensors[name]).tolist()] == expected


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_large_list_equals_reference(kernel: Backend, op: str, dtype: torch.dtype) -> None:
    sizes = [5000, 1] if kernel.interpreted else [LARGE, 0, 1, 4097]
    start = lists(sizes, dtype)
    expected = copies(start)
    with zokern.use_backend("reference"):
        OPS[op](*expected, rounding="stochastic")
    actual = [[t.to(kernel.device, copy=True) for t in each] for each in start]
    with kernel.use():
        OPS[op](*actual, rounding="stochastic")
    for a, e in zip(sum(actual, []), sum(expected, [])):
        assert_same_bits(a, e)


@ALL
def test_does_not_depend_on_how_tensors_are_split(backend: Backend, op: str) -> None:
    start = lists([1500], torch.bfloat16, backend.device)
    whole = copies(start)
    OPS[op](*whole, streams=[9], rounding="stochastic")
    cuts = [0, 1, 250, 256, 900, 1499, 1500]
    shards = [[each[0][a:b].clone() for a, b in zip(cuts, cuts[1:])] for each in start]
    OPS[op](*shards, streams=[9] * 6, offsets=cuts[:-1], rounding="stochastic")
    for pieces, (expected,) in zip(shards, whole):
        assert_same_bits(torch.cat(pieces), expected)


@ALL
def test_does_not_depend_on_threads(op: str) -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            tensors = lists([LARGE, 5])
            with zokern.use_backend("cpu"):
                OPS[op](*tensors)
            results.append(sum(tensors, []))
    finally:
        torch.set_num_threads(before)
    for a, e in zip(*results):
        assert_same_bits(a, e)


@ALL
def test_out_leaves_params(backend: Backend, op: str) -> None:
    start = lists([300, 7], torch.float32, backend.device)
    in_place, elsewhere = copies(start), copies(start)
    OPS[op](*in_place)
    out = [torch.full_like(p, torch.nan) for p in start[0]]
    OPS[op](*elsewhere, out=out)
    for kept, given in zip(elsewhere[0], start[0]):
        assert_same_bits(kept, given)
    for a, e in zip([*out, *elsewhere[1], *elsewhere[2]], [*in_place[0], *in_place[1], *in_place[2]]):
        assert_same_bits(a, e)


@ALL
def test_no_tensor_is_allocated(kernel: Backend, op: str) -> None:
    if kernel.name == "triton":
        pytest.skip("a table of two seeds, or an interpreter: see tests/triton")
    tensors = lists([100_000, 7], torch.bfloat16, kernel.device)
    for each in tensors:
        each.append(torch.zeros(513, 7, dtype=each[0].dtype, device=kernel.device).t())
    out = [torch.empty_like(p) for p in tensors[0]]
    with kernel.use():
        OPS[op](*tensors)  # caches of a first call
        with torch.profiler.profile(profile_memory=True) as profile:
            OPS[op](*tensors, rounding="stochastic")
            OPS[op](*tensors, out=out)
    grown = [e for e in profile.events() if e.cpu_memory_usage > 0 or e.device_memory_usage > 0]
    assert not grown, [(e.name, e.cpu_memory_usage, e.device_memory_usage) for e in grown]


@ALL
def test_empty_lists_and_tensors_are_fine(backend: Backend, op: str) -> None:
    OPS[op]([], [], [])
    start = lists([0, 8], torch.float32, backend.device)
    alone = [[each[1].clone()] for each in start]
    OPS[op](*start)
    OPS[op](*alone, streams=[1])
    for each, (expected,) in zip(start, alone):
        assert_same_bits(each[1], expected)


@ALL
def test_inf_and_nan_stay_where_they_are(backend: Backend, op: str) -> None:
    odd = torch.tensor([torch.inf, -torch.inf, torch.nan, 1.0] * 3, device=backend.device)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        p = odd.to(dtype)
        state = [torch.zeros(12, device=backend.device) for _ in range(2)]
        OPS[op]([p], *([s] for s in state), rounding="stochastic" if dtype != torch.float32 else "nearest")
        assert p[3::4].isfinite().all() and p[2::4].isnan().all() and p[0::4].isposinf().all()


@ALL
def test_versions_are_bumped_so_that_autograd_notices(op: str) -> None:
    tensors = lists([10])
    before = [t._version for (t,) in tensors]
    OPS[op](*tensors)
    changed = {"adam_": 3, "adamu_probe_": 1, "adamu_update_": 2, "perturb_masked_": 1}[op]
    assert [t._version > v for (t,), v in zip(tensors, before)] == [i < changed for i in range(3)]


@ALL
def test_grad_mode_is_refused(op: str) -> None:
    (p,), *state = lists([10])
    weight = torch.nn.Parameter(p.clone())
    with pytest.raises(RuntimeError, match=r"params\[0\] requires grad.*no_grad"):
        OPS[op]([weight], *state)
    assert_same_bits(weight, p)


BAD: dict[str, tuple[Callable[[list[torch.Tensor]], dict[str, Any]], type[Exception], str]] = {
    "state of another shape": (lambda m: {"exp_avgs": [m[0], m[1][:3]]}, ValueError, r"exp_avgs\[1\] has shape"),
    "16-bit state": (lambda m: {"exp_avgs": [m[0], m[1].half()]}, TypeError, r"exp_avgs\[1\] has dtype torch.float16"),
    "one state too few": (lambda m: {"exp_avgs": m[:1]}, ValueError, "exp_avgs has 1 tensors for 2"),
    "no tensor": (lambda m: {"exp_avgs": [m[0], 3.0]}, TypeError, r"exp_avgs\[1\] must be a tensor, got float"),
    "state is the parameter": (lambda m: {"params": m}, ValueError, r"(params|exp_avgs)\[\d\] and (params|exp_avgs)\[\d\] overlap"),
    "negative seed": (lambda m: {"seeds": [-1]}, ValueError, r"seeds\[0\].*-1"),
    "no seed": (lambda m: {"seeds": [], "grads": []}, ValueError, "at least one seed"),
    "lengths": (lambda m: {"grads": [1.0, 2.0]}, ValueError, "grads has 2 entries for 1 seeds"),
    "displacements": (lambda m: {"displacements": [1.0, 2.0]}, ValueError, "displacements has 2 entries for 1 seeds"),
    "nan gradient": (lambda m: {"grads": float("nan")}, ValueError, r"grads\[0\].*nan"),
    "infinite rate": (lambda m: {"lr": float("inf")}, ValueError, "lr.*inf"),
    "beta of one": (lambda m: {"betas": (0.9, 1.0)}, ValueError, r"betas\[1\].*1.0"),
    "zero eps": (lambda m: {"eps": 1e-50}, ValueError, "eps.*1e-50"),
    "zeroth step": (lambda m: {"step": 0}, ValueError, "step.*0"),
    "fractional step": (lambda m: {"step": 1.5}, ValueError, "step.*1.5"),
    "variant": (lambda m: {"variant": "nadam"}, ValueError, "variant.*'nadam'"),
    "maximum without adamm": (lambda m: {"max_exp_avg_sqs": m}, ValueError, "max_exp_avg_sqs.*'adam' and some"),
    "adamm without maximum": (lambda m: {"variant": "adamm"}, ValueError, "max_exp_avg_sqs.*'adamm' and none"),
    "rounding": (lambda m: {"rounding": "up"}, ValueError, "rounding.*'up'"),
    "streams": (lambda m: {"streams": [0]}, ValueError, "streams has 1 entries"),
    "out": (lambda m: {"out": [m[0].clone()]}, ValueError, "out has 1 tensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_adam_rejects(case: tuple[Any, ...]) -> None:
    changes, error, message = case
    params, m, v = lists([10, 20])
    before = copies([params, m, v])
    arguments = {
        "params": params,
        "exp_avgs": m,
        "exp_avg_sqs": v,
        "seeds": 3,
        "grads": 1.0,
        "lr": 1e-2,
        "step": 1,
    }
    with pytest.raises(error, match=message):
        zokern.adam_(**{**arguments, **changes(m)})
    for a, e in zip([*params, *m, *v], sum(before, [])):
        assert_same_bits(a, e)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 1.5}, "alpha.*1.5"),
        ({"beta1": -0.1}, "beta1.*-0.1"),
        ({"beta2": float("nan")}, "beta2.*nan"),
        ({"sigma": 0.0}, "sigma.*0.0"),
        ({"grad": float("inf")}, "grad.*inf"),
        ({"momentum_scale": float("nan")}, "momentum_scale.*nan"),
        ({"displacement": 1e39}, r"displacement.*1e\+39"),
        ({"seed": 2**64}, "seed.*18446744073709551616"),
        ({"exp_avgs": [torch.zeros(3)]}, r"exp_avgs\[0\] has shape"),
    ],
)
def test_adamu_rejects(changes: dict[str, Any], message: str) -> None:
    p, m = torch.ones(10), torch.ones(10)
    arguments = {
        "params": [p],
        "exp_avgs": [m],
        "seed": 1,
        "grad": 1.0,
        "lr": 1.0,
        "alpha": 0.5,
        "beta1": 0.5,
        "beta2": 0.5,
    }
    with pytest.raises(ValueError, match=message):
        zokern.adamu_update_(**{**arguments, **changes})
    shared = {k: v for k, v in changes.items() if k in ("alpha", "beta1", "seed", "exp_avgs")}
    if shared:
        probe = {
            "params": [p],
            "exp_avgs": [m],
            "seed": 1,
            "scale": 1.0,
            "alpha": 0.5,
            "beta1": 0.5,
            **shared,
        }
        with pytest.raises(ValueError, match=message):
            zokern.adamu_probe_(**probe)
    assert (p == 1).all() and (m == 1).all()


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({}, ValueError, "exactly one of thresholds and masks.*neither"),
        ({"thresholds": 1.0, "masks": [torch.ones(10, dtype=torch.bool)]}, ValueError, "both"),
        ({"thresholds": -1.0}, ValueError, r"thresholds\[0\].*-1.0"),
        ({"thresholds": [float("nan")]}, ValueError, r"thresholds\[0\].*nan"),
        ({"thresholds": [1.0, 2.0]}, ValueError, "thresholds has 2 entries for 1"),
        ({"masks": [torch.ones(10)]}, TypeError, r"masks\[0\] has dtype torch.float32"),
        ({"masks": [torch.ones(9, dtype=torch.bool)]}, ValueError, r"masks\[0\] has shape"),
        ({"masks": []}, ValueError, "masks has 0 tensors for 1"),
        ({"thresholds": 1.0, "scales": [1.0, 2.0]}, ValueError, "scales has 2 entries"),
    ],
)
def test_masked_rejects(keywords: dict[str, Any], error: type[Exception], message: str) -> None:
    p = torch.ones(10)
    with pytest.raises(error, match=message):
        zokern.perturb_masked_([p], **{"seeds": 1, "scales": 1.0, **keywords})
    assert (p == 1).all()


@ALL
def test_fake_tensors_and_compile_see_an_opaque_op(op: str) -> None:
    p, m, v = (torch.rand(10) for _ in range(3))
    rule = [0.9, 0.1, 0.9, 0.1, 1e-2, 1.0, 1e-8, 0.0]
    places = ([0], [0])
    arguments = {
        "adam_": ([p], [m], [v], [], [1], [1.0], [0.0], 1.0, rule, "adam", *places, "gaussian", "nearest"),
        "adamu_probe_": ([p], [m], 1, 1.0, 1.0, rule[:4], *places, "nearest"),
        "adamu_update_": ([p], [m], 1, 1.0, 0.0, 1.0, rule, *places, "nearest"),
        "perturb_masked_": ([p], [], [0.5], [1], [1.0], 1.0, *places, "gaussian", "nearest"),
    }
    function = getattr(torch.ops.zokern, op).default
    torch.library.opcheck(function, arguments[op], test_utils=("test_schema", "test_faketensor"))
