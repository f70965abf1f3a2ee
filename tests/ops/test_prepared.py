"""A list met before skips the checks: only while everything they rest on is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import zokern
from tests.conftest import Backend, all_backends, as_params
from zokern.call import prepared

SHAPES = [(7, 5), (300,), (2, 3, 11), ()]


@pytest.fixture(autouse=True)
def nothing_kept():
    prepared.CACHE.clear()
    yield
    prepared.CACHE.clear()


@pytest.fixture(params=as_params([b for b in all_backends() if b.name in ("cpu", "cuda")]))
def native(request: pytest.FixtureRequest) -> Iterator[Backend]:
    with request.param.use(), torch.device(request.param.device):
        yield request.param


def tensors(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(shape).to(dtype) for shape in SHAPES]


def meet(params: list[Tensor], **keywords) -> None:
    """Two calls, after which a list is kept."""
    for seed in range(2):
        zokern.perturb_(params, seed, 0.5, **keywords)


def kept() -> int:
    return sum(ready is not None for ready in prepared.CACHE.values())


def same_as_reference(params: list[Tensor], **keywords) -> bool:
    expected = [p.detach().clone() for p in params]
    with torch.no_grad():
        zokern.perturb_(params, [3, 4], [0.25, -1.0], decay=0.5, **keywords)
        with zokern.use_backend("reference"):
            zokern.perturb_(expected, [3, 4], [0.25, -1.0], decay=0.5, **keywords)
    return all(map(torch.equal, params, expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"streams": [5, 3, 2**32 - 1, 0], "offsets": (2**40, 1, 0, 9)},
        {"distribution": "rademacher", "rounding": "stochastic"},
    ],
    ids=["plain", "places", "rademacher"],
)
def test_a_list_met_before_draws_the_same(native, dtype, keywords):
    params = tensors(dtype)
    meet(params, **keywords)
    assert kept() == 1
    for _ in range(2):
        assert same_as_reference(params, **keywords)
    assert same_as_reference(params)  # other places are another list


def transpose(p: Tensor) -> None:
    p.t_()


def shrink(p: Tensor) -> None:
    p.resize_(5, 3)


def other_dtype(p: Tensor) -> None:
    p.data = p.data.zero_().view(torch.bfloat16)  # halves of random numbers may be NaN


def other_memory(p: Tensor) -> None:
    p.data = torch.randn(9, 9)


@pytest.mark.parametrize("change", [transpose, shrink, other_dtype, other_memory])
def test_a_tensor_that_changed_is_seen(native, change: Callable[[Tensor], None]):
    params = tensors()
    meet(params)
    change(params[0])
    assert same_as_reference(params)


def test_nothing_beyond_a_tensor_that_shrank_is_written(native):
    params = tensors()
    memory = params[0].view(-1)
    meet(params)
    shrink(params[0])
    before = memory.clone()
    zokern.perturb_(params, 3, 0.5)
    assert torch.equal(memory[15:], before[15:])
    assert not torch.equal(memory[:15], before[:15])


def test_what_begins_to_overlap_is_refused(native):
    memory = torch.randn(64)
    params = [memory[:16], memory[16:32]]
    meet(params)
    assert kept() == 1
    params[0] = memory[:17]
    with pytest.raises(ValueError, match=r"params\[0\] and params\[1\] overlap"):
        zokern.perturb_(params, 3, 0.5)


def test_grad_mode_is_looked_at_each_time(native):
    params = [nn.Parameter(p) for p in tensors()]
    with torch.no_grad():
        meet(params)
        assert kept() == 1
    before = [p.detach().clone() for p in params]
    with pytest.raises(RuntimeError, match=r"params\[0\] requires grad"):
        zokern.perturb_(params, 3, 0.5)
    assert all(map(torch.equal, params, before))


def test_autograd_is_told(native):
    params = tensors()
    meet(params)
    versions = [p._version for p in params]
    zokern.perturb_(params, 3, 0.5)
    assert all(p._version > version for p, version in zip(params, versions))


def test_inference_tensors(native):
    with torch.inference_mode():
        params = tensors()
        meet(params)
        assert kept() == 1
        assert same_as_reference(params)


@pytest.mark.parametrize("argument", ["streams", "offsets"])
@pytest.mark.parametrize("place", [1.0, -1, 2**64, "1"])
def test_places_are_checked_each_time(native, argument, place):
    params = tensors()[:1]
    meet(params, **{argument: [1]})
    before = params[0].clone()
    with pytest.raises((TypeError, ValueError), match=rf"{argument}\[0\]"):
        zokern.perturb_(params, 3, 0.5, **{argument: [place]})
    assert torch.equal(params[0], before)


@pytest.mark.parametrize("arguments", [{"seeds": -1}, {"scales": float("nan")}, {"decay": float("inf")}])
def test_numbers_are_checked_each_time(native, arguments):
    params = tensors()
    meet(params)
    before = [p.clone() for p in params]
    with pytest.raises(ValueError):
        zokern.perturb_(params, **{"seeds": 3, "scales": 0.5, **arguments})
    assert all(map(torch.equal, params, before))


def test_modes_and_the_profiler_see_the_op(native):
    class Log(TorchDispatchMode):
        seen: list[str] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen.append(str(func))
            return func(*args, **(kwargs or {}))

    params = tensors()
    meet(params)
    with Log():
        zokern.perturb_(params, 3, 0.5)
    assert "zokern.perturb_.default" in Log.seen
    with torch.profiler.profile() as profile:
        zokern.perturb_(params, 3, 0.5)
    assert "zokern::perturb_" in [event.key for event in profile.key_averages()]


def test_a_backend_asked_for_serves(native, monkeypatch):
    from zokern.reference import OPS

    calls = []
    reference = OPS["perturb_"]
    monkeypatch.setitem(OPS, "perturb_", lambda *a: (calls.append(1), reference(*a)))
    params = tensors()
    meet(params)
    with zokern.use_backend("reference"):
        zokern.perturb_(params, 3, 0.5)
    assert calls == [1]


def test_lists_that_are_not_kept(native):
    for params in (
        [torch.randn(6, 4).t()],
        [torch.randn(3), torch.randn(0)],
        [],
    ):
        meet(params)
        assert kept() == 0
        assert same_as_reference(params)


def test_an_iterator_of_places_is_read_once(native):
    params, expected = ([torch.zeros(9)] for _ in range(2))
    zokern.perturb_(params, 3, 0.5, streams=iter([7]))
    zokern.perturb_(expected, 3, 0.5, streams=[7])
    assert torch.equal(params[0], expected[0])


def test_so_many_and_no_more(native, monkeypatch):
    monkeypatch.setattr(prepared, "MAX_LISTS", 4)
    params = [torch.randn(3) for _ in range(20)]
    for p in params:
        meet([p])
        assert len(prepared.CACHE) <= 4
