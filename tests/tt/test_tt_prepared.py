"""The prepared way at small sizes: it must answer as the checked one does, whatever has changed."""

import gc

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import zokern
from tests.conftest import assert_same_bits
from tests.tt.conftest import adapter, make_cores, run_adapter
from zokern.call import tt_prepared

pytestmark = pytest.mark.usefixtures("fresh")


@pytest.fixture
def fresh():
    tt_prepared.CACHE.clear()
    with torch.no_grad(), zokern.use_backend("cpu"):
        yield


def remembered() -> int:
    return len(tt_prepared.CACHE)


def test_the_second_call_is_prepared_and_equal():
    a, x = adapter([4, 6], [2, 3]), torch.randn(5, 24)
    first = run_adapter(x, a)
    assert remembered() == 1
    assert_same_bits(run_adapter(x, a), first)
    run_adapter(x, a, scale=0.5)
    assert remembered() == 2


def test_values_written_in_place_are_seen():
    a, x = adapter([4, 6], [2, 3]), torch.randn(5, 24)
    run_adapter(x, a)
    a["up"][1].mul_(2)
    fresh = {k: [c.clone() for c in v] if isinstance(v, list) else v for k, v in a.items()}
    assert_same_bits(run_adapter(x, a), run_adapter(x, fresh))


def test_replaced_data_is_seen():
    a, x = adapter([4, 6], [2, 3]), torch.randn(5, 24)
    run_adapter(x, a)
    a["down"][0].data = a["down"][0] * 3
    fresh = {k: [c.clone() for c in v] if isinstance(v, list) else v for k, v in a.items()}
    assert_same_bits(run_adapter(x, a), run_adapter(x, fresh))
    a["down"][0].data = a["down"][0].data.bfloat16()
    with pytest.raises(TypeError, match=r"down\[0\] has dtype torch.bfloat16"):
        run_adapter(x, a)


def test_a_changed_list_is_seen():
    a, x = adapter([4, 6], [2, 3]), torch.randn(5, 24)
    run_adapter(x, a)
    a["down"][1] = a["down"][1] + 1
    fresh = {k: [c.clone() for c in v] if isinstance(v, list) else v for k, v in a.items()}
    assert_same_bits(run_adapter(x, a), run_adapter(x, fresh))


def test_forgets_layers_that_die():
    a, x = adapter([4, 6], [2, 3]), torch.randn(5, 24)
    run_adapter(x, a)
    assert remembered() == 1
    del a
    gc.collect()
    assert remembered() == 0


def test_every_check_of_x_still_runs():
    cores, x = make_cores([4, 6, 3, 5], 3), torch.randn(5, 24)
    zokern.tt_linear(x, cores, 2)
    for bad, kind in (
        (torch.randn(5, 23), ValueError),
        (x.double(), TypeError),
        (x.long(), TypeError),
        (torch.tensor(1.0), ValueError),
        (None, TypeError),
    ):
        with pytest.raises(kind, match="x"):
            zokern.tt_linear(bad, cores, 2)
    with pytest.raises(ValueError, match="out has shape"):
        zokern.tt_linear(x, cores, 2, out=torch.empty(5, 14))
    with pytest.raises(ValueError, match=r"noise\.offsets has 1"):
        zokern.tt_linear(x, cores, 2, noise=zokern.TTNoise([1], [1.0], [0]))


def test_autograd_is_not_bypassed():
    cores, x = [c.requires_grad_() for c in make_cores([4, 6, 3, 5], 3)], torch.randn(5, 24)
    zokern.tt_linear(x, cores, 2)
    with torch.enable_grad():
        assert zokern.tt_linear(x, cores, 2).requires_grad
        for c in cores:
            c.requires_grad_(False)
        assert zokern.tt_linear(x.requires_grad_(), cores, 2).requires_grad


def test_dispatch_modes_are_not_bypassed():
    class Seen(TorchDispatchMode):
        names: list = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    cores, x = make_cores([4, 6, 3, 5], 3), torch.randn(5, 24)
    y = zokern.tt_linear(x, cores, 2)
    with Seen() as seen:
        assert_same_bits(zokern.tt_linear(x, cores, 2), y)
    assert "zokern.tt_linear.default" in seen.names


def test_the_backend_asked_for_serves(monkeypatch):
    cores, x = make_cores([4, 6, 3, 5], 3), torch.randn(5, 24)
    zokern.tt_linear(x, cores, 2)
    calls = []
    from zokern import reference

    original = reference.OPS["tt_linear"]
    monkeypatch.setitem(reference.OPS, "tt_linear", lambda *a: calls.append(1) or original(*a))
    with zokern.use_backend("reference"):
        zokern.tt_linear(x, cores, 2)
    assert len(calls) == 1


def test_layers_that_share_cores_keep_apart():
    """The same tensors under another split, order or bias are other layers."""
    cores = make_cores([4, 4, 4, 4], 3)
    x = torch.randn(3, 16)
    bias = torch.randn(16)
    plain = zokern.tt_linear(x, cores, 2)
    assert not torch.equal(zokern.tt_linear(x, cores, 2, bias), plain)
    assert zokern.tt_linear(x[:, :4].contiguous(), cores, 1).shape == (3, 64)
    assert_same_bits(zokern.tt_linear(x, cores, 2), plain)
