"""`restore="exact"` and reads that its hooks do not see."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tests.optim.programs import EPS, Heads, pair
from zokern.optim import MeZO


class TestReads:
    """`restore="exact"` and reads that its hooks do not see."""

    def test_functional_reads_that_begin_late(self) -> None:
        model, x = Heads(), torch.randn(16, 6)
        optimizer = MeZO(model, lr=1e-3, eps=EPS, restore="exact")
        for step in range(40):

            def closure(step: int = step) -> Tensor:
                loss = model(x).square().mean()
                if step >= 21:
                    loss = loss + model.table.weight.square().sum() + model.head.weight.norm()
                return loss

            expected = pair(model, closure, optimizer.next_seed())
            optimizer.step(closure)
            assert optimizer.last.losses == pytest.approx(expected, rel=1e-6), step

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_vmap_and_functional_calls(self, dtype: torch.dtype) -> None:
        model, x = Heads(dtype), torch.randn(16, 6, dtype=dtype)

        def mapped() -> Tensor:
            return torch.vmap(model)(x).float().square().mean()

        def reading() -> Tensor:
            scaled = torch.vmap(lambda row: row * model.head.weight[0, :6])(x)
            return model(scaled).float().square().mean()

        def called() -> Tensor:
            tensors = {name: p.detach() for name, p in model.named_parameters()}
            return functional_call(model, tensors, (x,)).float().square().mean()

        def differentiated() -> Tensor:
            slope = torch.vmap(torch.func.grad(lambda row: model(row).sum()))(x)
            return slope.float().square().mean()

        optimizer = MeZO(model, lr=0.0, eps=0.05, restore="exact")
        for closure in (mapped, reading, called, differentiated):
            expected = pair(model, closure, optimizer.next_seed(), eps=0.05)
            optimizer.step(closure)
            assert optimizer.last.losses == pytest.approx(expected, rel=1e-3), closure.__name__

    @pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.randn(16, 6))])
    @pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
    def test_scripted_modules(self, make: Callable[[nn.Module], nn.Module]) -> None:
        inner = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
        torch.manual_seed(0)
        model, x = nn.Sequential(make(inner), nn.Linear(8, 1)), torch.randn(16, 6)
        optimizer = MeZO(model, lr=1e-2, eps=EPS, restore="exact")

        def closure() -> Tensor:
            return model(x).square().mean()

        for _ in range(3):
            expected = pair(model, closure, optimizer.next_seed())
            optimizer.step(closure)
            assert optimizer.last.losses == pytest.approx(expected, rel=1e-6)

    def test_a_mixture_of_64_experts_holds_no_copy_of_them(self) -> None:
        """Each step sends its rows to two experts; the scratch is one layer, and nothing is covered."""
        experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(64))
        gate = nn.Linear(32, 64)
        model = nn.ModuleDict({"gate": gate, "experts": experts})
        x = torch.randn(8, 32)
        optimizer = MeZO(model, lr=1e-4, eps=EPS, restore="exact")
        for step in range(70):
            chosen = (step % 61, 63 - step % 60)

            def closure(chosen: tuple[int, int] = chosen) -> Tensor:
                weight = gate(x).softmax(-1)
                return sum((weight[:, e : e + 1] * experts[e](x)).square().mean() for e in chosen)

            expected = pair(model, closure, optimizer.next_seed())
            optimizer.step(closure)
            assert optimizer.last.losses == pytest.approx(expected, rel=1e-6)
        engine = optimizer.engine
        assert engine.covered == [] and engine.cover.held == {}
        held = sum(buffer.numel() for buffer in engine.scratch.buffers.values())
        assert held <= 2 * 4 * gate.weight.numel() and engine.repeated == 0

    def test_a_step_without_a_forward_leaves_nothing_behind(self) -> None:
        model, x = Heads(), torch.randn(16, 6)
        optimizer = MeZO(model, lr=1e-3, eps=EPS, restore="exact")
        calls = 0

        def empty() -> float:
            nonlocal calls
            calls += 1
            return 1.0

        optimizer.step(empty)
        assert calls == 2 and optimizer.engine.covered == []
        optimizer.step(lambda: model(x).square().mean())
        assert optimizer.engine.covered == []
