"""First-order gradients of the tensor-train ops: gradcheck in float64, fp32 against float64."""

import pytest
import torch

import zokern
from tests.tt.conftest import adapter, make_cores, run_adapter

SHAPES = {  # 1 to 4 cores a side, odd splits, unequal ranks
    "1|1": ([3, 2], 1, [2]),
    "1|3": ([3, 2, 2, 3], 1, [2, 3, 2]),
    "2|1": ([2, 3, 4], 2, [3, 2]),
    "2|2": ([2, 3, 2, 2], 2, [2, 3, 2]),
    "3|2": ([2, 1, 3, 2, 2], 3, [2, 3, 1, 2]),
    "4|4": ([2, 1, 2, 2, 2, 2, 1, 2], 4, [2, 1, 2, 3, 2, 2, 1]),
}
GRAD = [torch.float64]


def leaves(tensors: list, grad: bool = True) -> list:
    return [t.detach().clone().requires_grad_(grad) for t in tensors]


@pytest.mark.parametrize("queries", [None, 2], ids=["one set", "two queries"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("name", SHAPES)
def test_linear_gradcheck(name, bias, queries):
    modes, split, ranks = SHAPES[name]
    cores = leaves(make_cores(modes, ranks, queries, dtype=torch.float64))
    plan = zokern.tt_cost(cores, split)
    lead = () if queries is None else (queries,)
    x, *b = leaves(
        [torch.randn(2, 2, plan.in_features).double()]
        + [torch.randn(*lead, plan.out_features).double()] * bias
    )
    assert torch.autograd.gradcheck(
        lambda x, *t: zokern.tt_linear(x, t[: len(cores)], split, *t[len(cores) :]), (x, *cores, *b)
    )


def test_a_bias_shared_by_queries_gathers_its_gradient():
    cores = leaves(make_cores([2, 3, 2, 2], 2, queries=3, dtype=torch.float64))
    x, bias = leaves([torch.randn(6, 6).double(), torch.randn(4).double()])
    assert torch.autograd.gradcheck(lambda x, b, *t: zokern.tt_linear(x, t, 2, b), (x, bias, *cores))


@pytest.mark.parametrize("name", SHAPES)
def test_halves_gradcheck(name):
    modes, split, ranks = SHAPES[name]
    cores = leaves(make_cores(modes, ranks, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda *t: zokern.tt_halves(t, split), cores)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh", "identity"])
@pytest.mark.parametrize("queries", [None, 2], ids=["one set", "two queries"])
def test_adapter_gradcheck(activation, queries):
    torch.manual_seed(1)
    a = adapter([2, 3], [2, 1, 2], 2, queries, dtype=torch.float64)
    down, up = leaves(a["down"]), leaves(a["up"])
    x, bd, bu = leaves([torch.randn(2, 2, 6).double(), a["down_bias"], a["up_bias"]])
    n = len(down)
    assert torch.autograd.gradcheck(
        lambda x, bd, bu, *t: zokern.tt_adapter(
            x, t[:n], t[n:], down_split=2, up_split=3, down_bias=bd, up_bias=bu,
            activation=activation, scale=0.7,
        ),
        (x, bd, bu, *down, *up),
    )  # fmt: skip


def test_frozen_inputs_get_no_gradient():
    cores = leaves(make_cores([2, 3, 2, 2], 2))
    cores[1].requires_grad_(False)
    x = torch.randn(3, 6)
    zokern.tt_linear(x, cores, 2).sum().backward()
    assert x.grad is None and cores[1].grad is None
    assert all(cores[i].grad is not None for i in (0, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fp32_cores_on_the_kernels_match_float64(tt_backend, dtype):
    """The forward is the backend's, the backward plain PyTorch; gradients keep their tensors' dtypes."""
    if tt_backend.interpreted:
        pytest.skip("the forward alone differs, and test_tt_adapter covers it")
    device = tt_backend.device
    a = adapter([4, 6], [2, 4])
    x = torch.randn(7, 24).to(dtype)
    tensors = [x, *a["down"], a["down_bias"], *a["up"], a["up_bias"]]
    own = leaves([t.to(device) for t in tensors])
    with zokern.use_backend("reference"):
        wide = leaves([t.double() for t in tensors])
        _loss(wide, a).backward()
    _loss(own, a).backward()
    for got, expected in zip(own, wide):
        assert got.grad.dtype == got.dtype and got.grad.shape == got.shape
        limit = 2.0**-7 if dtype == torch.bfloat16 else 1e-5
        assert (got.grad.double().cpu() - expected.grad).abs().max() <= limit * expected.grad.abs().max()


def _loss(t: list, a: dict) -> torch.Tensor:
    n = len(a["down"])
    arguments = {**a, "down": t[1 : n + 1], "down_bias": t[n + 1], "up": t[n + 2 : -1], "up_bias": t[-1]}
    y = run_adapter(t[0], arguments, activation="silu")
    return (y.double() ** 2).sum()


def test_backward_keeps_no_halves():
    """What is saved is x, the cores and the biases themselves."""
    saved = []
    cores = leaves(make_cores([8, 8, 8, 8], 4))
    x = torch.randn(5, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = zokern.tt_linear(x, cores, 2)
    known = {t.data_ptr() for t in (x, *cores)}
    assert saved and {t.data_ptr() for t in saved} <= known
    y.sum().backward()


def test_training_goes_down():
    """Ten steps of gradient descent on a low-rank target."""
    torch.manual_seed(0)
    cores = leaves(make_cores([4, 4, 4, 4], 3))
    x, target = torch.randn(64, 16), torch.randn(64, 16)
    optimizer = torch.optim.Adam(cores, lr=0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (zokern.tt_linear(x, cores, 2) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
