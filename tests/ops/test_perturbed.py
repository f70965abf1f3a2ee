"""`perturbed`: there and back to the same bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import zokern
from tests.conftest import Backend


def weights() -> list[Tensor]:
    torch.manual_seed(0)
    wide = torch.randn(6, 10)
    odd = torch.tensor([0.0, -0.0, float("inf"), float("nan"), 1e-45])
    return [torch.randn(33), wide[:, 2:7], torch.randn(8).bfloat16(), torch.randn(3).double(), odd]


def bits(tensors: list[Tensor]) -> list[bytes]:
    return [t.contiguous().view(torch.uint8).numpy().tobytes() for t in tensors]


def test_back_to_the_same_bits(backend: Backend) -> None:
    if backend.device != "cpu":
        pytest.skip("tensors of this test are on the CPU: no GPU is needed to see it")
    params, plain = weights(), weights()
    before = bits(params)
    with zokern.perturbed(params, 7, 0.3, distribution="rademacher") as held:
        zokern.perturb_(plain, 7, 0.3, distribution="rademacher")
        assert bits(params) == bits(plain)
        held.move(7, -0.3)
        other = weights()
        zokern.perturb_(other, 7, -0.3, distribution="rademacher")
        assert bits(params) == bits(other)
    assert bits(params) == before
    held = zokern.perturbed(params, [7, 8], [0.3, 0.1])
    assert bits(params) != before
    held.restore()
    held.restore()
    assert bits(params) == before


def test_an_exception_in_the_block_restores() -> None:
    params = weights()
    before = bits(params)
    with pytest.raises(KeyError), zokern.perturbed(params, 7, 0.3):
        raise KeyError
    assert bits(params) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((7, float("nan")), "scales"), ((-1, 0.1), "seeds"), (("x", 0.1), "seeds"), (([1, 2], 0.1), "scales")],
)
def test_refusals_change_nothing(arguments: tuple, message: str) -> None:
    params = weights()
    before = bits(params)
    with pytest.raises((TypeError, ValueError), match=message):
        zokern.perturbed(params, *arguments)
    assert bits(params) == before


@pytest.mark.parametrize("kind", ["parameter", "inference", "empty list"])
def test_other_tensors(kind: str) -> None:
    if kind == "parameter":
        params = [torch.nn.Parameter(torch.randn(5))]
    else:
        with torch.inference_mode():
            params = [torch.randn(5)] if kind == "inference" else []
    before = [p.detach().clone() for p in params]
    with torch.no_grad(), zokern.perturbed(params, 7, 0.5):
        assert all(not torch.equal(p, b) for p, b in zip(params, before))
    assert all(torch.equal(p, b) for p, b in zip(params, before))
