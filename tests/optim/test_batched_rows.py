"""`evaluation="batched"` and models whose rows are not each copy's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.optim.problems import same, values
from tests.optim.programs import EPS, mlp
from zokern.optim import MeZO


class SequenceFirst(nn.Module):
    """Takes [time, batch, features]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.GRU(6, 8)
        self.head = nn.Linear(8, 2)
        self.rnn.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class Meeting(nn.Module):
    """Rows meet in statistics over the batch, after the trained layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 8)
        self.out = nn.Linear(8, 2).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.layer(x))
        return self.out((hidden - hidden.mean(0)) / hidden.std(0))


class TestBatched:
    """`evaluation="batched"` and models whose rows are not each copy's own."""

    class Late(nn.Module):
        """[time, batch, features] whose trained layer lies before the recurrence."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(6, 6)
            self.rnn = nn.GRU(6, 8).requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(self.layer(x))[0]

    @pytest.mark.parametrize("make", [Late, Meeting, SequenceFirst])
    @pytest.mark.parametrize("queries", [1, 3])
    def test_refused_at_first_use(self, make: type[nn.Module], queries: int) -> None:
        model = make()
        shape = (16, 6) if make is Meeting else (5, 16, 6)
        x = torch.randn(shape)
        optimizer = MeZO(model, lr=1e-2, eps=EPS, num_queries=queries, evaluation="batched")
        before = values(model)
        with pytest.raises(RuntimeError, match="evaluation='batched' gives other losses than one forward"):
            optimizer.step(lambda: model(x).square().mean())
        assert same(values(model), before) and optimizer.steps == 0

    def test_dropout_is_refused_by_name(self) -> None:
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.1), nn.Linear(8, 1))
        optimizer = MeZO(model, evaluation="batched")
        x = torch.randn(16, 6)
        with pytest.raises(RuntimeError, match=r"1 is a dropout of p = 0.1 in training mode"):
            optimizer.step(lambda: model(x).mean())
        model.eval()
        optimizer.step(lambda: model(x).mean())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_right_models_are_compared_once(self, dtype: torch.dtype) -> None:
        model, x = mlp(6, 32, 32, 1, dtype=dtype), torch.randn(16, 6, dtype=dtype)
        optimizer = MeZO(model, lr=1e-2, eps=EPS, num_queries=2, evaluation="batched")
        calls = 0

        def closure() -> Tensor:
            nonlocal calls
            calls += 1
            return model(x).float().square().mean()

        optimizer.step(closure)
        assert calls == 3 * 4 and optimizer.num_evaluations == 4
        optimizer.step(closure)
        assert calls == 4 * 4

    def test_frozen_layers_have_one_value(self) -> None:
        losses = []
        for evaluation in ("loop", "batched"):
            model, x = mlp(6, 8, 1), torch.linspace(-1, 1, 96).view(16, 6)
            optimizer = MeZO(model, lr=1e-2, eps=EPS, evaluation=evaluation, restore="snapshot")
            model[0].requires_grad_(False)
            start = model[0].weight.clone()
            for _ in range(3):
                optimizer.step(lambda model=model, x=x: model(x).square().mean())
            assert torch.equal(model[0].weight, start)
            losses.append(optimizer.last.losses)
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
