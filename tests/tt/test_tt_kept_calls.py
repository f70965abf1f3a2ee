"""Kept calls compare all that they rest on: layouts, negative bits, numbers that are tensors.

Each change keeps a tensor's identity, and most keep its address; the right value is that of a fresh copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import zokern
from tests.tt.conftest import adapter, make_cores, run_adapter
from zokern.call import prepared, tt_prepared, unchanged
from zokern.nn import TTAdapter


@pytest.fixture(autouse=True, params=["guards", "python"])
def _kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "python":
        monkeypatch.setattr(unchanged, "TensorGuards", None)
    tt_prepared.CACHE.clear()
    prepared.CACHE.clear()
    with torch.no_grad(), zokern.use_backend("cpu"):
        yield


def set_transposed(core: Tensor) -> None:
    core.data = core.data.transpose(0, 2).contiguous().transpose(0, 2)


def same_memory(core: Tensor) -> None:
    core.data = core.data.flatten().view(core.shape[2], core.shape[1], core.shape[0]).permute(2, 1, 0)


def set_(core: Tensor) -> None:
    shape = core.shape
    core.set_(core.untyped_storage(), 0, shape, (1, shape[0], shape[0] * shape[1]))


def transpose(core: Tensor) -> None:
    core.transpose_(0, 1).transpose_(1, 2).transpose_(0, 1)  # (3, 6, 3) back to front


def negative(core: Tensor) -> None:
    core.data = torch._neg_view(core.data)


CHANGES: dict[str, Callable[[Tensor], None]] = {
    "data": set_transposed,
    "data of the same memory": same_memory,
    "set_": set_,
    "transpose_": transpose,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_layout_that_changed_in_place_is_seen(change: str) -> None:
    cores, x = make_cores([4, 6, 3, 5], 3), torch.randn(5, 24)
    for _ in range(3):
        before = zokern.tt_linear(x, cores, 2)
    assert len(tt_prepared.CACHE) == 1
    CHANGES[change](cores[1])
    right = zokern.tt_linear(x, [core.clone(memory_format=torch.contiguous_format) for core in cores], 2)
    assert torch.equal(zokern.tt_linear(x, cores, 2), right)
    assert change == "data" or not torch.equal(right, before)


def test_a_size_that_changed_in_place_is_seen() -> None:
    cores, x = make_cores([4, 6, 3, 5], 3), torch.randn(5, 24)
    for _ in range(3):
        zokern.tt_linear(x, cores, 2)
    cores[1].resize_(3, 5, 3)
    with pytest.raises(ValueError, match="x has shape"):
        zokern.tt_linear(x, cores, 2)
    cores[1].resize_(3, 6, 2)
    with pytest.raises(ValueError, match=r"ranks of cores do not chain"):
        zokern.tt_linear(x, cores, 2)


def test_a_negative_bit_is_seen() -> None:
    cores, x = make_cores([4, 6, 3, 5], 3), torch.randn(5, 24)
    for _ in range(3):
        zokern.tt_linear(x, cores, 2)
    negative(cores[1])
    with pytest.raises(ValueError, match=r"cores\[1\] is a negated view"):
        zokern.tt_linear(x, cores, 2)


def test_negated_and_empty_memory_of_x_is_written_out() -> None:
    cores, x = make_cores([4, 6, 3, 5], 3), torch.randn(5, 24)
    for _ in range(3):
        y = zokern.tt_linear(x, cores, 2)
        assert torch.equal(zokern.tt_linear(torch._neg_view(x), cores, 2), -y)
        assert not zokern.tt_linear(torch._efficientzerotensor((5, 24)), cores, 2).any()


def test_a_scale_that_is_a_tensor_is_read_in_each_call() -> None:
    a, x = adapter([4, 6], [2, 3]), torch.randn(5, 24)
    scale = torch.tensor(0.5)
    for _ in range(3):
        assert torch.equal(run_adapter(x, a, scale=scale), run_adapter(x, a, scale=0.5))
    scale.fill_(2.0)
    assert torch.equal(run_adapter(x, a, scale=scale), run_adapter(x, a, scale=2.0))


@pytest.mark.parametrize(
    "odd",
    [{"scale": True}, {"groups": True}, {"groups": 2.0}, {"down_split": True}, {"activation": ["relu"]}],
)
def test_a_kept_call_takes_no_more_than_a_checked_one(odd: dict) -> None:
    """True equals 1 and 2.0 equals 2 as the key of a dict."""
    a, x = adapter([4, 6], [2, 3]), torch.randn(5, 24)
    a = {
        **a,
        "down": make_cores([24, 6], 3),
        "up": make_cores([6, 24], 3),
        "down_bias": None,
        "up_bias": None,
    }
    for usual in ({}, {"scale": 1.0}, {"groups": 2}, {"down_split": 1}):
        for _ in range(2):
            run_adapter(x, {**a, "down_split": 1, "up_split": 1, **usual})
    with pytest.raises((TypeError, ValueError), match=next(iter(odd))):
        run_adapter(x, {**a, "down_split": 1, "up_split": 1, **odd})


def test_views_of_a_module_follow_its_parameter() -> None:
    layer, x = TTAdapter(24, 8, rank=2, init="gaussian"), torch.randn(3, 24)
    layer(x)
    flat = layer.flat
    values = torch.randn(2, flat.numel())
    flat.data = values[0]
    before = layer(x)
    flat.data = values.T.reshape(-1).as_strided((flat.numel(),), (2,))
    flat.data = values.view(-1)[: flat.numel()]
    assert torch.equal(layer(x), before)
    flat.data = values.view(-1).as_strided((flat.numel(),), (2,))  # the same address
    fresh = TTAdapter(24, 8, rank=2)
    fresh.flat.data = flat.data.clone()
    assert torch.equal(layer(x), fresh(x))


LIST_CHANGES: dict[str, Callable[[Tensor], None]] = {
    "transposed": lambda p: (p.transpose_(0, 1), None)[1],
    "set_": lambda p: (p.set_(p.untyped_storage(), 0, (3, 4), (1, 3)), None)[1],
    "data": lambda p: setattr(p, "data", p.data.flatten().view(4, 3).T),
}


@pytest.mark.parametrize("change", LIST_CHANGES)
def test_a_kept_list_follows_its_tensors(change: str) -> None:
    p = torch.zeros(3, 4)
    for _ in range(3):
        zokern.perturb_([p], 7, 1.0)
    assert any(kept is not None for kept in prepared.CACHE.values())
    LIST_CHANGES[change](p)
    right = p.clone(memory_format=torch.contiguous_format) + zokern.normal(p.shape, 7)
    zokern.perturb_([p], 7, 1.0)
    torch.testing.assert_close(p, right, rtol=0, atol=1e-6)


def test_a_kept_list_refuses_what_a_checked_one_does() -> None:
    p = torch.zeros(12)
    for _ in range(3):
        zokern.perturb_([p], 7, 1.0)
    before = p.clone()
    with pytest.raises(ValueError, match=r"params\[0\] is a negated view"):
        zokern.perturb_([torch._neg_view(p)], 7, 1.0)
    with pytest.raises(TypeError, match=r"params\[0\] has dtype torch.int32"):
        zokern.perturb_([p.view(torch.int32)], 7, 1.0)
    assert torch.equal(p, before)


def test_a_list_stays_kept_in_inference_mode() -> None:
    p = torch.zeros(12)
    for _ in range(3):
        zokern.perturb_([p], 7, 1.0)
    kept = next(kept for kept in prepared.CACHE.values() if kept is not None)
    with torch.inference_mode():
        for _ in range(3):
            zokern.perturb_([p], 7, -1.0)
    assert kept in prepared.CACHE.values()
    assert p.abs().max() < 1e-6
