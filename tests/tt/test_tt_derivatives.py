"""Derivatives of tensor-train layers in forward mode, of second order and through `torch.func`.

They were silently 0 in forward mode. Right values are those of the dense matrix in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import zokern
from tests.tt.conftest import make_cores

CORES = [core.double() for core in make_cores([4, 6, 3, 5], [3, 4, 2])]
BIAS = torch.randn(15, dtype=torch.float64)
X, T = torch.randn(2, 2, 24, dtype=torch.float64).unbind()
UP = [core.double() for core in make_cores([5, 3, 4, 6], [2, 4, 3])]

Function = Callable[..., Tensor]


def dense(cores: list[Tensor], rows: int) -> Tensor:
    product = cores[0]
    for core in cores[1:]:
        product = torch.tensordot(product, core, dims=1)
    return product.reshape(rows, -1)


def linear(x: Tensor, first: Tensor = CORES[0]) -> Tensor:
    return zokern.tt_linear(x, [first, *CORES[1:]], 2, BIAS)


def plain_linear(x: Tensor, first: Tensor = CORES[0]) -> Tensor:
    return x @ dense([first, *CORES[1:]], 24) + BIAS


def adapter(x: Tensor, first: Tensor = CORES[0]) -> Tensor:
    return zokern.tt_adapter(x, [first, *CORES[1:]], UP, down_bias=BIAS, activation="gelu", scale=0.5)


def plain_adapter(x: Tensor, first: Tensor = CORES[0]) -> Tensor:
    return x + 0.5 * torch.nn.functional.gelu(plain_linear(x, first)) @ dense(UP, 15)


LAYERS = {"linear": (linear, plain_linear), "adapter": (adapter, plain_adapter)}


@pytest.fixture(params=LAYERS)
def pair(request: pytest.FixtureRequest) -> tuple[Function, Function]:
    layer, plain = LAYERS[request.param]
    for _ in range(3):  # the call is prepared, where it can be
        layer(X)
    return layer, plain


def scalar(f: Function) -> Function:
    return lambda *arguments: torch.tanh(f(*arguments)).sum()


FIRST_ORDER: dict[str, Callable[[Function], Tensor]] = {
    "jvp": lambda f: jvp(f, (X,), (T,))[1],
    "jvp of a core": lambda f: jvp(lambda c: f(X, c), (CORES[0],), (torch.ones_like(CORES[0]),))[1],
    "jacfwd": lambda f: jacfwd(f)(X),
    "jacrev": lambda f: jacrev(f)(X),
    "grad": lambda f: grad(scalar(f))(X),
    "vjp of a core": lambda f: vjp(lambda c: scalar(f)(X, c), CORES[0])[1](torch.tensor(2.0).double())[0],
    "vmap": lambda f: vmap(f)(torch.stack([X, T])),
    "vmap of jvp": lambda f: vmap(lambda t: jvp(f, (X,), (t,))[1])(torch.stack([X, T])),
}
SECOND_ORDER: dict[str, Callable[[Function], Tensor]] = {
    "hessian": lambda f: hessian(scalar(f))(X),
    "forward over reverse": lambda f: jacfwd(jacrev(scalar(f)))(X),
    "reverse over forward": lambda f: jacrev(jacfwd(scalar(f)))(X),
    "forward over forward": lambda f: jacfwd(jacfwd(scalar(f)))(X),
    "reverse over reverse": lambda f: jacrev(jacrev(scalar(f)))(X),
    "of a core": lambda f: jacfwd(jacrev(lambda c: scalar(f)(X, c)))(CORES[0]),
}


@pytest.mark.parametrize("of", FIRST_ORDER)
def test_first_derivatives(pair: tuple[Function, Function], of: str) -> None:
    ours, plain = map(FIRST_ORDER[of], pair)
    assert plain.abs().max() > 0.01
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("of", SECOND_ORDER)
def test_second_derivatives(pair: tuple[Function, Function], of: str) -> None:
    ours, plain = map(SECOND_ORDER[of], pair)
    assert plain.abs().max() > 0.001
    torch.testing.assert_close(ours, plain)


def test_double_backward(pair: tuple[Function, Function]) -> None:
    found = []
    for f in pair:
        x, core = X.clone().requires_grad_(), CORES[0].clone().requires_grad_()
        first = torch.autograd.grad(scalar(f)(x, core), (x, core), create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), (x, core)))
    torch.testing.assert_close(*found)


def test_dual_tensors_and_backward_through_a_tangent(pair: tuple[Function, Function]) -> None:
    found = []
    for f in pair:
        x = X.clone().requires_grad_()
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(scalar(f)(forward_ad.make_dual(x, T))).tangent
            assert tangent is not None
            found.append((tangent, *torch.autograd.grad(tangent, x)))
    torch.testing.assert_close(*found)


def test_halves() -> None:
    def product(core: Tensor) -> Tensor:
        left, right = zokern.tt_halves([core, *CORES[1:]], 2)
        return left @ right

    ones = torch.ones_like(CORES[0])
    ours = jvp(product, (CORES[0],), (ones,))[1]
    torch.testing.assert_close(ours, jvp(lambda c: dense([c, *CORES[1:]], 24), (CORES[0],), (ones,))[1])


@pytest.mark.parametrize("prepared", [False, True])
def test_parameters_of_a_module(prepared: bool) -> None:
    """The views that a module keeps of its parameters hold no tangent."""
    module = zokern.nn.TTAdapter(24, 8, rank=3, init="gaussian", activation="gelu").double()
    x, tangents = X, {"flat": torch.randn_like(module.flat)}
    parameters = {"flat": module.flat.detach()}
    if prepared:
        with torch.no_grad():
            for _ in range(3):
                module(x)

    def loss(values: dict[str, Tensor]) -> Tensor:
        return functional_call(module, values, (x,)).square().sum()

    slope = (grad(loss)(parameters)["flat"] * tangents["flat"]).sum()
    torch.testing.assert_close(jvp(loss, (parameters,), (tangents,))[1], slope)
    with torch.no_grad(), forward_ad.dual_level():
        dual = {"flat": forward_ad.make_dual(parameters["flat"], tangents["flat"])}
        torch.testing.assert_close(forward_ad.unpack_dual(loss(dual)).tangent, slope.detach())


def test_what_has_no_derivative_says_so() -> None:
    noise = zokern.TTNoise([1, 2], [1e-3, -1e-3], [0, 100, 200, 300])
    out = torch.empty(2, 15, dtype=torch.float64)
    single = [core.float() for core in CORES]
    with pytest.raises(RuntimeError, match="out is for forward passes only"):
        jvp(lambda x: zokern.tt_linear(x, CORES, 2, out=out), (X,), (T,))
    with pytest.raises(RuntimeError, match="noise is for forward passes only"):
        jvp(lambda x: zokern.tt_linear(x, single, 2, noise=noise), (X.float(),), (T.float(),))
    with forward_ad.dual_level():
        x = forward_ad.make_dual(X, T)
        with pytest.raises(RuntimeError, match=r"tt_linear has no forward-mode derivative"):
            torch.ops.zokern.tt_linear(x, CORES, None, 2, 0, [], [], [], 0, "gaussian")
        with pytest.raises(RuntimeError, match=r"params\[0\] carries a tangent"):
            zokern.perturb_([x], 7, 1e-3)
        with pytest.raises(RuntimeError, match=r"dense\[0\] carries a tangent"):
            zokern.ops.add_dense_([X.clone()], [x], 1e-3)
        still = X.clone()
        zokern.perturb_([still], 7, 1e-3)  # no tangent: as ever
        assert not torch.equal(still, X)
