"""Trainables that the loss does not see, or no longer in the way it did."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zokern
from tests.optim.problems import Bowl, same, values
from tests.optim.programs import ALL_RESTORES, EPS, Heads, pair
from zokern.optim import Blocks, BlockSchedule, MeZO, MeZOSVRG, ZOAdam, ZOAdaMU


class TestTrainables:
    """Trainables that the loss does not see, or no longer in the way it did."""

    def test_meta_tensors_are_refused_by_name(self) -> None:
        with torch.device("meta"):
            model = Heads()
        with pytest.raises((TypeError, ValueError), match=r"body\.weight.*meta"):
            MeZO(model)

    def test_assigned_weights_are_an_error(self) -> None:
        model, x = Heads(), torch.randn(16, 6)
        optimizer = MeZO(model)
        optimizer.step(lambda: model(x).mean())
        model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
        with pytest.raises(RuntimeError, match=r"body\.weight is no longer a parameter of the module"):
            optimizer.step(lambda: model(x).mean())

    def test_a_replaced_head_is_an_error(self) -> None:
        model, x = Heads(), torch.randn(16, 6)
        optimizer = MeZO(model)
        model.head = nn.Linear(8, 3)
        before = values(model)
        with pytest.raises(RuntimeError, match=r"head\.weight is no longer"):
            optimizer.step(lambda: model(x).mean())
        assert same(values(model), before) and optimizer.steps == 0

    def test_a_wrapped_layer_goes_on(self) -> None:
        model, x = Heads(), torch.randn(16, 6)
        optimizer = MeZO(model, lr=0.0)
        model.head = nn.Sequential(model.head)
        expected = pair(model, lambda: model(x).square().mean(), optimizer.next_seed())
        optimizer.step(lambda: model(x).square().mean())
        # by hand the wrapped head's streams are the same: the order of parameters is
        assert optimizer.last.losses == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("restore", ALL_RESTORES)
    @pytest.mark.parametrize("method", [MeZO, ZOAdam, MeZOSVRG])
    def test_a_layer_frozen_later_stays_where_it_is(self, restore: dict[str, Any], method: Any) -> None:
        model, x = Heads(), torch.randn(16, 6)
        options = {"weight_decay": 0.1, "eps": EPS, **restore}
        optimizer = method(model, lr=1e-2, **options)
        also = {"full_closure": lambda: model(x).square().mean()} if method is MeZOSVRG else {}
        optimizer.step(lambda: model(x).square().mean(), **also)
        optimizer.flush()
        model.head.requires_grad_(False)
        head, body = model.head.weight.clone(), model.body.weight.clone()
        seen: list[Tensor] = []
        for _ in range(3):
            optimizer.step(
                lambda: (seen.append(model.head.weight.clone()), model(x).square().mean())[1], **also
            )
        optimizer.flush()
        assert torch.equal(model.head.weight, head) and not torch.equal(model.body.weight, body)
        assert all(torch.equal(w, head) for w in seen)
        model.head.requires_grad_(True)
        optimizer.step(lambda: model(x).square().mean(), **also)
        optimizer.flush()
        assert not torch.equal(model.head.weight, head)

    def test_freezing_shifts_no_stream(self) -> None:
        model, twin = Heads(), Heads()
        x = torch.randn(16, 6)
        whole, part = MeZO(model, lr=0.0, eps=EPS), MeZO(twin, lr=0.0, eps=EPS)
        twin.body.requires_grad_(False)
        moved: list[Tensor] = []
        whole.step(lambda: (moved.append(model.head.weight.clone()), model(x).mean())[1])
        part.step(lambda: (moved.append(twin.head.weight.clone()), twin(x).mean())[1])
        assert torch.equal(moved[0], moved[2])

    def test_all_frozen_is_an_error(self) -> None:
        model = Heads()
        optimizer = MeZO(model)
        model.requires_grad_(False)
        with pytest.raises(RuntimeError, match="no parameter of this optimizer requires grad"):
            optimizer.step(lambda: 1.0)

    def test_cast_after_construction(self) -> None:
        """Weights cast to 16 bits are not moved in place, where that would drift."""
        model, x = Heads(), torch.randn(16, 6)
        optimizer = ZOAdam(model, lr=0.0, eps=EPS)
        optimizer.step(lambda: model(x).mean())
        assert optimizer.restore == "inplace"
        model.bfloat16()
        before = values(model)
        for _ in range(3):
            optimizer.step(lambda: model(x.bfloat16()).float().mean())
        assert optimizer.restore != "inplace" and same(values(model), before)

    def losses_are_equal(self) -> Any:
        return pytest.warns(RuntimeWarning, match="equal to the last bit for 3 steps in a row")

    def test_a_loss_of_other_weights_is_told_once(self) -> None:
        model, other, x = Heads(), Heads(), torch.randn(16, 6)
        optimizer = MeZO(model)
        with self.losses_are_equal() as told:
            for _ in range(8):
                optimizer.step(lambda: other(x).mean())
        assert len(told) == 1 and "does not read the trained weights" in str(told[0].message)

    def test_eps_below_the_rounding_of_16_bits(self) -> None:
        model, x = Heads(torch.bfloat16), torch.randn(16, 6, dtype=torch.bfloat16)
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(1.0)
        optimizer = MeZO(model, eps=1e-4)
        with self.losses_are_equal() as told:
            for _ in range(4):
                optimizer.step(lambda: model(x).float().mean())
        assert "eps = 0.0001 is below the rounding of 16-bit weights" in str(told[0].message)

    def test_losses_that_differ_now_and_then_are_not_told(self) -> None:
        model = Heads()
        optimizer = MeZO(model)
        values_ = iter([1.0, 1.0, 1.0, 1.0, 1.0, 2.0] * 10)
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            for _ in range(12):
                optimizer.step(lambda: next(values_))


def test_momenta_are_kept_with_a_frozen_layer() -> None:
    model, x = Heads(), torch.randn(16, 6)
    optimizer = ZOAdaMU(model, lr=1e-3, schedule=zokern.optim.AdaMUSchedule(10))
    optimizer.step(lambda: model(x).square().mean())
    model.head.requires_grad_(False)
    kept = optimizer.state[model.head.weight]["exp_avg"].clone()
    optimizer.step(lambda: model(x).square().mean())
    assert torch.equal(optimizer.state[model.head.weight]["exp_avg"], kept)


def test_blocks_over_bare_parameters() -> None:
    """Without names there are no layers, and the whole would be one block."""
    params = [nn.Parameter(torch.ones(3)) for _ in range(4)]
    with pytest.raises(ValueError, match=r"by='layer' reads layers from parameter names.*by='tensor'"):
        MeZO(params, lr=0.1, eps=EPS, perturbation=Blocks(BlockSchedule(active=1)))
    optimizer = MeZO(params, lr=0.1, eps=EPS, perturbation=Blocks(BlockSchedule(active=1, by="tensor")))
    for _ in range(4):
        before = [p.clone() for p in params]
        optimizer.step(lambda: sum(p.square().sum() for p in params))
        assert sum(not torch.equal(a, b) for a, b in zip(params, before)) == 1


def test_a_momentum_window_grows_with_the_groups() -> None:
    model, more = Bowl(), nn.Parameter(torch.ones(4))
    optimizer = MeZO(model.named_parameters(), lr=1e-3, eps=EPS, momentum=0.9, momentum_window=3)
    for _ in range(3):
        optimizer.step(model)
    optimizer.add_param_group({"params": [("more", more)]})
    for _ in range(3):
        optimizer.step(lambda: model() + more.square().sum())
    assert not torch.equal(more, torch.ones(4))


def test_a_group_that_is_refused_changes_nothing() -> None:
    model = Bowl()
    optimizer = MeZO(model, lr=1e-3, eps=EPS, restore="exact")
    with pytest.raises(ValueError, match="module does not contain the parameter more"):
        optimizer.add_param_group({"params": [("more", nn.Parameter(torch.ones(4)))]})
    assert len(optimizer.param_groups) == 1
    optimizer.step(model)
