"""Random layers draw the same numbers in all losses of a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.optim.programs import EPS, restores
from zokern.optim import MeZO, MeZOSVRG, ZOAdam


class TestRandomLayers:
    """Dropout in training mode: the losses of a step have one mask."""

    def model(self) -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 64), nn.Dropout(0.5), nn.Linear(64, 1))

    @restores
    def test_a_pair_shares_its_random_state(self, restore: dict[str, Any]) -> None:
        model, x = self.model(), torch.randn(8, 16)
        optimizer = MeZO(model, lr=0.0, eps=EPS, **restore)
        slopes = []
        for _ in range(4):
            losses_of: list[bytes] = []

            def closure(states: list[bytes] = losses_of) -> Tensor:
                states.append(torch.get_rng_state().numpy().tobytes())
                return model(x).square().mean()

            optimizer.step(closure)
            assert len(set(losses_of)) == 1
            slopes.append(next(iter(optimizer.last.projected_grads.values())))
        assert max(map(abs, slopes)) < 10  # other masks: their difference / 2 eps is hundreds
        assert len(set(slopes)) == 4

    def test_masks_differ_from_step_to_step_and_follow_the_seed(self) -> None:
        def masks(seed: int) -> list[list[float]]:
            optimizer = MeZO(self.model(), lr=0.0, seed=seed)
            found: list[list[float]] = []
            for _ in range(3):
                optimizer.step(lambda: found.append(torch.rand(3).tolist()) or 1.0)
            return found[::2]

        assert masks(1) == masks(1) and len({tuple(m) for m in [*masks(1), *masks(2)]}) == 6

    @pytest.mark.parametrize("method", [MeZO, ZOAdam, MeZOSVRG])
    def test_global_state_is_what_it_was(self, method: type[MeZO]) -> None:
        model, x = self.model(), torch.randn(8, 16)
        optimizer = method(model, lr=1e-4)
        torch.manual_seed(5)
        before = torch.get_rng_state()
        options = {"full_closure": lambda: model(x).mean()} if method is MeZOSVRG else {}
        optimizer.step(lambda: model(x).mean(), **options)
        assert torch.equal(torch.get_rng_state(), before)
        with pytest.raises(ZeroDivisionError):
            optimizer.step(lambda: torch.rand(1) / 0 if (1 / 0) else 0, **options)
        assert torch.equal(torch.get_rng_state(), before)

    def test_turned_off(self) -> None:
        model = self.model()
        optimizer = MeZO(model, lr=0.0, common_random_numbers=False)
        drawn: list[float] = []
        torch.manual_seed(5)
        expected = torch.rand(2).tolist()
        torch.manual_seed(5)
        optimizer.step(lambda: drawn.append(float(torch.rand(1))) or 1.0)
        assert drawn == expected
        with pytest.raises(TypeError, match="common_random_numbers"):
            MeZO(model, common_random_numbers="yes")
