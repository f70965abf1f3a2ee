"""The order of streams, and groups taken apart."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.optim.problems import same, values
from tests.optim.programs import EPS, Heads
from zokern.optim import MeZO


class TestStreams:
    """A group taken apart draws the noise that it drew among the others."""

    def parts(self, model: nn.Module) -> list[dict[str, Any]]:
        named = list(model.named_parameters())
        decayed = [(n, p) for n, p in named if p.dim() > 1]
        return [
            {"params": [(n, p) for n, p in named if p.dim() < 2], "weight_decay": 0.0},
            {"params": decayed, "weight_decay": 0.1},
        ]

    def noise(self, params: Any, model: nn.Module, **options: Any) -> list[Tensor]:
        start, seen = values(model), []
        optimizer = MeZO(params, lr=0.0, eps=1.0, **options)
        optimizer.step(lambda: seen.append([p.clone() for p in model.parameters()]) or 1.0)
        return [a - b for a, b in zip(seen[0], start)]

    def test_with_the_module(self) -> None:
        models = [Heads() for _ in range(4)]
        whole = self.noise(models[0], models[0])
        split = self.noise(self.parts(models[1]), models[1], module=models[1])
        bare = [{"params": [p for _, p in g["params"]]} for g in self.parts(models[2])]
        assert same(whole, split)
        assert same(whole, self.noise(bare, models[2], module=models[2]))
        listed = self.noise(self.parts(models[3]), models[3], module=models[3], streams="order")
        assert not same(whole, listed)

    def test_by_name(self) -> None:
        model, twin = Heads(), Heads()
        whole = self.noise(model, model, streams="name")
        assert same(whole, self.noise(self.parts(twin), twin, streams="name"))
        with pytest.raises(ValueError, match="streams='name' needs named parameters"):
            MeZO(list(Heads().parameters()), streams="name")

    def test_numbers_in_names_count_by_value(self) -> None:
        layers = [(f"layers.{k}.weight", nn.Parameter(torch.zeros(4))) for k in (0, 9, 10, 1)]
        optimizer = MeZO(layers, streams="name")
        assert [id(p) for p in optimizer.trainables] == [id(layers[k][1]) for k in (0, 3, 1, 2)]

    @pytest.mark.parametrize("streams", ["order", "auto", None])
    def test_a_state_resumes_with_its_streams(self, streams: str | None) -> None:
        model, twin, x = Heads(), Heads(), torch.randn(16, 6)
        first = MeZO(self.parts(model), lr=1e-2, eps=EPS, module=model, streams=streams or "order")
        first.step(lambda: model(x).square().mean())
        state = first.state_dict()
        if streams is None:  # of version 0.1
            del state["zokern"]["streams"]
        second = MeZO(self.parts(twin), lr=1e-2, eps=EPS, module=twin)
        twin.load_state_dict(model.state_dict())
        second.load_state_dict(state)
        first.step(lambda: model(x).square().mean())
        second.step(lambda: twin(x).square().mean())
        assert same(values(model), values(twin))
