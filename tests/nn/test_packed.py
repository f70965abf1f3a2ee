"""One flat parameter, and views that always look at it."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

import zokern
from zokern.nn import TTAdapter, TTLinear, TTParameters, pack


def net() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    return nn.Sequential(
        TTLinear(24, 12, 3, generator=generator),
        nn.ReLU(),
        TTLinear(12, 24, 3, bias=False, generator=generator),
        TTAdapter(24, 8, 3, init="gaussian", generator=generator),
    )


X = torch.randn(5, 24, generator=torch.Generator().manual_seed(9))


def run(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(X)


def test_packing_changes_no_output() -> None:
    model = net()
    before, sizes = run(model), [m.flat.numel() for m in (model[0], model[2], model[3])]
    bank = pack(model)
    assert isinstance(model.tt_parameters, TTParameters) and bank is model.tt_parameters
    assert torch.equal(run(model), before)
    assert [name for name, _ in model.named_parameters()] == ["tt_parameters.flat"]
    assert bank.flat.numel() == sum(sizes) and bank.names == ["0", "2", "3"]


def test_parts_are_views_of_the_flat_parameter_side_by_side() -> None:
    model = net()
    bank = pack(model)
    parts = dict(bank.named_parts())
    assert list(parts)[:4] == ["0.core.0", "0.core.1", "0.core.2", "0.core.3"]
    assert "0.bias" in parts and "2.bias" not in parts and "3.down_bias" in parts
    at = bank.flat.data_ptr()
    for part in parts.values():
        assert part.data_ptr() == at
        at += 4 * part.numel()
    assert at == bank.flat.data_ptr() + 4 * bank.flat.numel()
    with torch.no_grad():
        for module, name in ((model[0], "0"), (model[2], "2"), (model[3], "3")):
            for part, offset in zip(module.parts(), module.offsets):
                assert part.data_ptr() == bank.flat.data_ptr() + 4 * offset, name


def test_perturbing_a_whole_model_is_one_tensor_and_one_call() -> None:
    model = net()
    bank, before = pack(model), run(model)
    with torch.no_grad():
        zokern.perturb_(bank.flat, 7, 1e-2)
        moved = run(model)
        assert not torch.equal(moved, before)
        expected = zokern.normal(bank.flat.shape, 7)[model[3].offsets[0] :][:4]
        zokern.perturb_(bank.flat, 7, -1e-2)
        bank.flat.zero_()
        zokern.perturb_(bank.flat, 7, 1.0)
    assert torch.equal(model[3].down[0].flatten()[:4], expected)  # stream follows the flat index


def _reload(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, _reload], ids=["deepcopy", "pickle"])
def test_copies_are_whole_and_apart(packed: bool, duplicate: object) -> None:
    model = net()
    if packed:
        pack(model)
    before = run(model)  # the views are cached
    twin = duplicate(model)  # type: ignore[operator]
    assert torch.equal(run(twin), before)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert not torch.equal(run(twin), before) and torch.equal(run(model), before)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert torch.equal(run(model), run(twin))


@pytest.mark.parametrize("packed", [True, False])
def test_state_dict_round_trip(packed: bool) -> None:
    model, other = net(), net()
    if packed:
        pack(model)
        pack(other)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(2)
    run(other)
    state = model.state_dict()
    assert list(state) == (["tt_parameters.flat"] if packed else ["0.flat", "2.flat", "3.flat"])
    other.load_state_dict(state)
    assert torch.equal(run(other), run(model))
    fresh = net()
    if packed:
        pack(fresh)
    fresh.load_state_dict(state, assign=True)  # another tensor takes the parameter's place
    assert torch.equal(run(fresh), run(model))


def test_views_follow_the_memory() -> None:
    model = net()
    bank = pack(model)
    run(model)
    bank.flat.data = torch.zeros_like(bank.flat)  # as .to(device) does
    assert not model[0].weight().any()
    old = model[0].cores[0]
    with torch.no_grad():
        bank.flat.fill_(1.0)
    assert model[0].cores[0] is old or torch.equal(old, torch.ones_like(old))


@pytest.mark.parametrize("packed", [True, False])
def test_sixteen_bit_models_keep_fp32_parameters(packed: bool) -> None:
    model = nn.Sequential(nn.Linear(24, 24), net())
    if packed:
        pack(model)
    flats = [p.detach().clone() for n, p in model.named_parameters() if n.endswith("flat")]
    for move in (lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.bfloat16().float()):
        moved = move(copy.deepcopy(model))
        kept = [p for n, p in moved.named_parameters() if n.endswith("flat")]
        assert all(torch.equal(a, b) for a, b in zip(flats, kept))
        assert all(p.dtype == torch.float32 for p in kept)
    assert copy.deepcopy(model).bfloat16()[0].weight.dtype == torch.bfloat16
    doubled = copy.deepcopy(model).double()
    assert {p.dtype for p in doubled.parameters()} == {torch.float64}


def test_gradients_reach_the_flat_parameter_alone() -> None:
    model, plain = net(), net()
    bank = pack(model)
    for m in (model, plain):
        m(X).square().mean().backward()
    expected = torch.cat([plain[i].flat.grad for i in (0, 2, 3)])
    assert torch.allclose(bank.flat.grad, expected)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = run(model)
    optimizer.step()
    assert not torch.equal(run(model), before)


def test_functional_call_swaps_the_flat_parameter() -> None:
    model = net()
    pack(model)
    flat = model.tt_parameters.flat.detach()
    run(model)  # the views of the parameter itself are cached

    def value(flat: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, {"tt_parameters.flat": flat}, (X,)).square().sum()

    with torch.no_grad():
        assert value(torch.zeros_like(flat)) != value(flat)
    other = flat.clone().requires_grad_()
    value(other).backward()
    model(X).square().sum().backward()
    assert torch.allclose(other.grad, model.tt_parameters.flat.grad, rtol=1e-4, atol=1e-6)


def test_pack_rejects_by_name() -> None:
    with pytest.raises(ValueError, match="root has no tensor-train layer"):
        pack(nn.Linear(2, 2))
    model = net()
    with pytest.raises(ValueError, match="attribute named 'forward'"):
        pack(model, name="forward")
    pack(model)
    with pytest.raises(ValueError, match="0 is packed already"):
        pack(model, name="more")


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_compiled_model_sees_the_present_parameters() -> None:
    model = net()
    bank = pack(model)
    run(model)
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(run(compiled), run(model))
    with torch.no_grad():
        bank.flat.mul_(0.5)
    assert torch.equal(run(compiled), run(model))
    bank.flat.data = bank.flat.data * 2
    assert torch.equal(run(compiled), run(model))
    torch.compiler.reset()
