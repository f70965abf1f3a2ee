"""Every refusal names the argument and the value, and comes before anything is written."""

import pytest
import torch

import zokern
from tests.tt.conftest import adapter, make_cores, run_adapter

CORES = make_cores([4, 6, 3, 5], [3, 4, 2])
X = torch.randn(4, 24)
BATCHED = make_cores([4, 6, 3, 5], 3, queries=2)


def linear(x=X, cores=CORES, split=2, bias=None, **options):
    return lambda: zokern.tt_linear(x, cores, split, bias, **options)


def swapped(i: int, tensor: object) -> list:
    return [tensor if k == i else c for k, c in enumerate(CORES)]


def noise(count: int = 4, queries: int = 2, **options):
    return zokern.TTNoise(range(queries), [1e-3] * queries, [0] * count, **options)


CASES = {
    "cores a tensor": (linear(cores=CORES[0]), TypeError, "cores must be a list of tensors, got Tensor"),
    "cores a number": (linear(cores=3), TypeError, "cores must be a list of tensors, got 3"),
    "one core": (linear(cores=CORES[:1]), ValueError, "cores must have at least 2.*got 1"),
    "no tensor": (linear(cores=swapped(1, "x")), TypeError, r"cores\[1\] must be a tensor, got str"),
    "integers": (linear(cores=swapped(2, CORES[2].int())), TypeError, r"cores\[2\] has dtype torch.int32"),
    "bf16 core": (linear(cores=[c.bfloat16() for c in CORES]), TypeError,
                  r"cores\[0\] has dtype torch.bfloat16; cores are float32"),
    "mixed dtypes": (linear(cores=swapped(1, CORES[1].double())), TypeError, r"cores\[1\] has dtype"),
    "two dimensions": (linear(cores=swapped(3, CORES[3][:, :, 0])), ValueError,
                       r"cores\[3\] has shape \(2, 5\)"),
    "empty core": (linear(cores=swapped(1, torch.empty(3, 0, 4))), ValueError,
                   r"cores\[1\] has a size of 0: shape \(3, 0, 4\)"),
    "ranks": (linear(cores=swapped(1, torch.randn(3, 6, 5))), ValueError,
              r"cores\[1\] ends with rank 5, cores\[2\] begins with 4"),
    "first rank": (linear(cores=swapped(0, torch.randn(2, 4, 3))), ValueError,
                   "cores must begin and end with rank 1, got 2 and 1"),
    "last rank": (linear(cores=swapped(3, torch.randn(2, 5, 7))), ValueError, "got 1 and 7"),
    "split 0": (linear(split=0), ValueError, r"split must be in \[1, 3\] for 4 cores, got 0"),
    "split 4": (linear(split=4), ValueError, "got 4"),
    "split a float": (linear(split=2.0), TypeError, "split must be an int, got 2.0"),
    "split a bool": (linear(split=True), TypeError, "split must be an int, got True"),
    "last dimension": (linear(x=torch.randn(2, 23)), ValueError,
                       r"x has shape \(2, 23\), its last dimension must be 24 \(modes \[4, 6\]\)"),
    "scalar x": (linear(x=torch.tensor(1.0)), ValueError, r"x has shape \(\)"),
    "x a list": (linear(x=[1.0]), TypeError, "x must be a tensor, got list"),
    "x integers": (linear(x=torch.ones(2, 24).long()), TypeError, "x has dtype torch.int64"),
    "float64 x": (linear(x=X.double()), TypeError, "x has dtype torch.float64 and the cores torch.float32"),
    "float64 cores": (linear(cores=[c.double() for c in CORES]), TypeError, "x has dtype torch.float32"),
    "x elsewhere": (linear(x=X.to("meta")), ValueError, "x is on meta, the cores on cpu"),
    "bias shape": (linear(bias=torch.randn(14)), ValueError, r"bias has shape \(14,\), expected \(15,\)"),
    "bias dtype": (linear(bias=torch.randn(15).half()), TypeError, "bias has dtype torch.float16"),
    "bias queries": (linear(bias=torch.randn(2, 15)), ValueError, r"bias has shape \(2, 15\)"),
    "bias no tensor": (linear(bias=0.5), TypeError, "bias must be a tensor, got float"),
    "groups 5": (linear(groups=5), ValueError, "groups must be 'auto', 2, 3 or 4, got 5"),
    "groups a word": (linear(groups="three"), ValueError, "got 'three'"),
    "groups 4 on 2": (linear(x=torch.randn(1, 4), cores=make_cores([4, 5], 3), split=1, groups=4),
                      ValueError, "groups=4 does not fit 2 cores, 1 on the input and 1"),
    "out shape": (linear(out=torch.empty(4, 14)), ValueError, r"out has shape \(4, 14\), y has \(4, 15\)"),
    "out dtype": (linear(out=torch.empty(4, 15).half()), TypeError, "out has dtype torch.float16, x"),
    "out overlaps itself": (linear(out=torch.empty(1, 15).expand(4, 15)), ValueError,
                            "out overlaps itself in memory"),
    "P mismatch": (linear(x=torch.randn(5, 24), cores=BATCHED), ValueError,
                   r"x has shape \(5, 24\); its first dimension must be a multiple of the 2 queries"),
    "1-D x with queries": (linear(x=torch.randn(24), cores=BATCHED), ValueError, r"x has shape \(24,\)"),
    "queries differ": (linear(cores=[*BATCHED[:3], BATCHED[3][:1]]), ValueError,
                       r"cores\[3\] holds 1 queries and cores\[0\] 2"),
    "some with queries": (linear(cores=[*CORES[:3], BATCHED[3]]), ValueError, r"cores\[3\] has shape"),
    "noise on queries": (linear(cores=BATCHED, noise=noise()), ValueError, "noise goes with cores of one"),
    "noise offsets": (linear(noise=noise(5)), ValueError, "noise.offsets has 5 entries for 4 cores and"),
    "noise rows": (linear(noise=noise(queries=3)), ValueError, "multiple of the 3 queries in noise.seeds"),
    "noise seed": (lambda: noise(queries=1) and zokern.TTNoise([-1], [1.0], [0]), ValueError,
                   r"noise.seeds\[0\] must be in .* got -1"),
    "noise lengths": (lambda: zokern.TTNoise([1], [1.0, 2.0], [0]), ValueError,
                      "noise.scales has 2 entries for 1 seeds"),
    "noise empty": (lambda: zokern.TTNoise([], [], [0]), ValueError, "noise.seeds must name"),
    "noise scale": (lambda: zokern.TTNoise([1], [float("inf")], [0]), ValueError, r"noise.scales\[0\]"),
    "noise stream": (lambda: noise(stream=1 << 32), ValueError, "noise.stream .* got 4294967296"),
    "noise offset": (lambda: zokern.TTNoise([1], [1.0], [1 << 62]), ValueError, r"noise.offsets\[0\]"),
    "noise offset type": (lambda: zokern.TTNoise([1], [1.0], [0.5]), TypeError, r"noise.offsets\[0\]"),
    "noise name": (lambda: noise(distribution="uniform"), ValueError, "noise.distribution .* 'uniform'"),
    "halves": (lambda: zokern.tt_halves(CORES, 9), ValueError, "split must be in .* got 9"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_linear_refuses(name):
    call, kind, message = CASES[name]
    with torch.no_grad(), pytest.raises(kind, match=message):
        call()


def changed(**changes):
    a = adapter([4, 6], [2, 3])
    options = {k: changes.pop(k) for k in list(changes) if k not in a}
    return lambda: run_adapter(options.pop("x", X), {**a, **changes}, **options)


ADAPTER = {
    "activation": (changed(activation="swish"), ValueError, "activation must be one of .* got 'swish'"),
    "scale": (changed(scale=float("nan")), ValueError, "scale must be finite, got nan"),
    "down_split": (changed(down_split=4), ValueError, r"down_split must be in \[1, 3\] .* got 4"),
    "up_split": (changed(up_split=0), ValueError, r"up_split must be in \[1, 3\] .* got 0"),
    "widths": (changed(up=make_cores([2, 2, 4, 6], 3)), ValueError, "up takes 4 features, down gives 6"),
    "residual": (changed(up=make_cores([2, 3, 4, 5], 3), up_bias=None), ValueError,
                 "up gives 20 features, the residual has 24"),
    "down_bias": (changed(down_bias=torch.randn(5)), ValueError, r"down_bias has shape \(5,\)"),
    "up_bias": (changed(up_bias=torch.randn(5)), ValueError, r"up_bias has shape \(5,\)"),
    "queries of one": (changed(up=make_cores([2, 3, 4, 6], 3, queries=2)), ValueError, "up holds 2 queries"),
    "dtypes": (changed(up=make_cores([2, 3, 4, 6], 3, dtype=torch.float64), up_bias=None), ValueError,
               "up is torch.float64"),
    "down": (changed(down=None), TypeError, "down must be a list of tensors, got None"),
}  # fmt: skip


@pytest.mark.parametrize("name", ADAPTER)
def test_adapter_refuses(name):
    call, kind, message = ADAPTER[name]
    with torch.no_grad(), pytest.raises(kind, match=message):
        call()


def test_out_that_overlaps_x_is_refused_and_nothing_written():
    a = adapter([4, 6], [2, 3])
    memory = torch.randn(5 * 24)
    before = memory.clone()
    for _ in range(2):  # the checked way and, after it, the prepared one
        with torch.no_grad(), pytest.raises(ValueError, match="out and x overlap"):
            run_adapter(memory[: 4 * 24].view(4, 24), a, out=memory[24:].view(4, 24))
        run_adapter(X, a)
    assert torch.equal(memory, before)


def test_out_and_noise_are_refused_where_autograd_would_miss_them():
    cores = [c.clone().requires_grad_() for c in CORES]
    with pytest.raises(RuntimeError, match="out is for forward passes only"):
        zokern.tt_linear(X, cores, 2, out=torch.empty(4, 15))
    with pytest.raises(RuntimeError, match="noise is for forward passes only"):
        zokern.tt_linear(X, cores, 2, noise=noise())
    with pytest.raises(RuntimeError, match=r"out\[0\] requires grad"):
        zokern.tt_linear(X, CORES, 2, out=torch.empty(4, 15, requires_grad=True))
    with torch.no_grad():
        zokern.tt_linear(X, cores, 2, noise=noise(), out=torch.empty(4, 15))


def test_float64_is_the_references():
    cores = [c.double() for c in CORES]
    assert zokern.tt_linear(X.double(), cores, 2).dtype == torch.float64
    with (
        zokern.use_backend("cpu"),
        pytest.raises(zokern.backends.BackendUnavailable, match=r"'cpu' .* float32 cores only"),
    ):
        zokern.tt_linear(X.double(), cores, 2)
