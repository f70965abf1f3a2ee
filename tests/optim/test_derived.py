"""Steps read no weight that was derived from former ones, and losses may be made of derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tests.optim.programs import EPS, mlp, pair, restores
from zokern.optim import MeZO


class TestDerivedWeights:
    """Nothing that PyTorch made of former weights is read."""

    @restores
    def test_outer_autocast(self, restore: dict[str, Any]) -> None:
        model, x = mlp(16, 32, 1), torch.randn(64, 16)
        optimizer = MeZO(model, lr=0.0, eps=0.1, **restore)

        def closure() -> Tensor:
            return model(x).float().square().mean()

        with torch.autocast("cpu", torch.bfloat16):
            expected = pair(model, closure, optimizer.next_seed(), eps=0.1)
            model(x)  # has casts of its weights kept
            optimizer.step(closure)
            assert optimizer.last.losses == pytest.approx(expected, rel=1e-6)
            assert expected[0] != expected[1]

    def test_weights_after_a_step_under_autocast(self) -> None:
        """Of a lazy run, too: the pass that lands is made by a hook of the forward outside a step."""
        for lazy in (False, True):
            model, x = mlp(16, 32, 1), torch.randn(64, 16)
            optimizer = MeZO(model, lr=1.0, eps=0.1, lazy=lazy)
            with torch.autocast("cpu", torch.bfloat16):
                optimizer.step(lambda model=model, x=x: model(x).float().square().mean())
                seen = model(x)
                torch.clear_autocast_cache()
                assert torch.equal(seen, model(x))

    @restores
    def test_cached_parametrizations(self, restore: dict[str, Any]) -> None:
        model, x = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 1))), torch.randn(32, 8)
        optimizer = MeZO(model, lr=0.0, eps=EPS, **restore)

        def closure() -> Tensor:
            return model(x).square().mean()

        expected = pair(model, closure, optimizer.next_seed())
        with parametrize.cached():
            model(x)
            optimizer.step(closure)
            assert optimizer.last.losses == pytest.approx(expected, rel=1e-6)


class TestGradientsInTheClosure:
    """Losses that are made of derivatives."""

    def losses(self, model: nn.Module, x: Tensor) -> dict[str, Callable[[], Tensor]]:
        def physics() -> Tensor:
            with torch.enable_grad():
                at = x.clone().requires_grad_()
                u = model(at).sum(1)
                (slope,) = torch.autograd.grad(u.sum(), at, create_graph=True)
                (second,) = torch.autograd.grad(slope.sum(), at)
            return (second + u[:, None]).square().mean().detach()

        def penalty() -> Tensor:
            with torch.enable_grad():
                loss = model(x).square().mean()
                grads = torch.autograd.grad(loss, list(model.parameters()))
            return sum(g.square().sum() for g in grads).detach() + loss.detach()

        def checkpointed() -> Tensor:
            from torch.utils.checkpoint import checkpoint

            with torch.enable_grad():
                at = x.clone().requires_grad_()
                out = checkpoint(model, at, use_reentrant=False)
                (slope,) = torch.autograd.grad(out.square().sum(), at)
            return slope.square().mean().detach()

        return {"physics": physics, "penalty": penalty, "checkpointed": checkpointed}

    @restores
    @pytest.mark.parametrize("kind", ["physics", "penalty", "checkpointed"])
    def test_every_loss_is_right(self, restore: dict[str, Any], kind: str) -> None:
        model, x = mlp(4, 16, 16, 1).double(), torch.randn(32, 4, dtype=torch.float64)
        optimizer = MeZO(model, lr=1e-3, eps=EPS, **restore)
        closure = self.losses(model, x)[kind]
        for _ in range(4):
            expected = pair(model, closure, optimizer.next_seed())
            optimizer.step(closure)
            assert optimizer.last.losses == pytest.approx(expected, rel=1e-9)

    def test_gradients_that_come_late(self) -> None:
        model, x = mlp(4, 16, 16, 1).double(), torch.randn(32, 4, dtype=torch.float64)
        optimizer = MeZO(model, lr=1e-3, eps=EPS, restore="exact")
        losses = self.losses(model, x)
        for step in range(12):
            closure = losses["penalty"] if step % 5 == 4 else lambda: model(x).square().mean()
            expected = pair(model, closure, optimizer.next_seed())
            optimizer.step(closure)
            assert optimizer.last.losses == pytest.approx(expected, rel=1e-9)
