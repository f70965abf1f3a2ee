"""Schemas, fakes and autograd registrations, as torch's own op check and torch.compile see them."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import zokern
from tests.tt.conftest import adapter, make_cores, run_adapter

OFF = ([], [], [], 0, "gaussian")
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("grad", [False, True], ids=["no grad", "grad"])
def test_opcheck(grad):
    cores = [c.requires_grad_(grad) for c in make_cores([4, 6, 3, 5], 3)]
    a = adapter([4, 6], [2, 3])
    x = torch.randn(2, 3, 24, requires_grad=grad)
    ops = torch.ops.zokern
    torch.library.opcheck(ops.tt_halves.default, (cores, 2), test_utils=CHECKS)
    bias = torch.randn(15)
    torch.library.opcheck(ops.tt_linear.default, (x, cores, bias, 2, 0, *OFF), test_utils=CHECKS)
    arguments = (a["down"], a["up"], a["down_bias"], None, 2, 2, "gelu", 0.5, 0, *OFF)
    torch.library.opcheck(ops.tt_adapter.default, (x, *arguments), test_utils=CHECKS)


def test_opcheck_of_writing_ops():
    cores, a, x = make_cores([4, 6, 3, 5], 3), adapter([4, 6], [2, 3]), torch.randn(3, 24)
    ops = torch.ops.zokern
    out = torch.empty(3, 15)
    torch.library.opcheck(ops.tt_linear_out.default, (x, cores, None, 2, 0, *OFF, out))
    arguments = (a["down"], a["up"], None, None, 2, 2, "relu", 1.0, 0, *OFF)
    torch.library.opcheck(ops.tt_adapter_out.default, (x, *arguments, torch.empty_like(x)))
    torch.library.opcheck(ops.tt_adapter_.default, (x, *arguments))


def test_fake_shapes():
    for dtype in (torch.float32, torch.bfloat16):
        with FakeTensorMode():
            cores = [torch.empty(s) for s in ((1, 4, 3), (3, 6, 3), (3, 5, 1))]
            x = torch.empty(2, 1, 24, dtype=dtype)
            y = zokern.tt_linear(x, cores, 2)
            assert y.shape == (2, 1, 5) and y.dtype == dtype
            left, right = zokern.tt_halves(cores, 2)
            assert left.shape == (24, 3) and right.shape == (3, 5)
            up = [torch.empty(s) for s in ((1, 5, 3), (3, 24, 1))]
            assert zokern.tt_adapter(x, cores, up, down_split=2).shape == x.shape


@pytest.mark.parametrize("form", ["new", "out", "in place"])
def test_compiled_without_graph_breaks(form):
    a = adapter([4, 6], [2, 3])

    @torch.compile(backend="aot_eager", fullgraph=True)
    def block(x, out):
        x = x * 2
        if form == "new":
            return run_adapter(x, a) + 1
        if form == "out":
            return run_adapter(x, a, out=out) + 1
        return run_adapter(x, a, out=x) + 1

    with torch.no_grad():
        for rows in (3, 5):
            x = torch.randn(rows, 24)
            expected = run_adapter(x * 2, a) + 1
            torch.testing.assert_close(block(x, torch.empty_like(x)), expected, rtol=0, atol=0)


def test_compiled_training_step():
    cores = [c.requires_grad_() for c in make_cores([4, 6, 3, 5], 3)]
    x = torch.randn(3, 24)

    def loss(x):
        return zokern.tt_linear(x, cores, 2).square().sum()

    loss(x).backward()
    expected = [c.grad.clone() for c in cores]
    for c in cores:
        c.grad = None
    torch.compile(loss, backend="aot_eager", fullgraph=True)(x).backward()
    for c, grad in zip(cores, expected):
        torch.testing.assert_close(c.grad, grad)


def test_compiled_noise():
    cores, x = make_cores([4, 6, 3, 5], 3), torch.randn(4, 24)
    noise = zokern.TTNoise([1, 2], [1e-2, -1e-2], [0, 100, 200, 300], stream=3)
    with torch.no_grad():
        run = torch.compile(lambda x: zokern.tt_linear(x, cores, 2, noise=noise), backend="aot_eager")
        torch.testing.assert_close(run(x), zokern.tt_linear(x, cores, 2, noise=noise), rtol=0, atol=0)
