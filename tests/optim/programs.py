"""Models and the plain-PyTorch oracle of the tests on other people's programs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import zokern
from tests.optim.problems import RESTORES
from zokern.optim import MeZO, ZOAdam

EPS = 1e-3


RESTORE = [pytest.param(options, id=name) for name, options in RESTORES.items() if "lazy" not in name]


ALL_RESTORES = [pytest.param(options, id=name) for name, options in RESTORES.items()]


restores = pytest.mark.parametrize("restore", RESTORE)


def pair(model: nn.Module, closure: Callable[[], Tensor], seed: int, eps: float = EPS) -> list[float]:
    """The two losses of a step in plain PyTorch: perturbed by hand, back from a copy."""
    params = list(model.parameters())
    start = [p.detach().clone() for p in params]
    losses = []
    for scale in (eps, -eps):
        with torch.no_grad():
            zokern.perturb_(params, seed, scale)
            torch.clear_autocast_cache()
            losses.append(float(closure().detach()))
            torch.clear_autocast_cache()
            for p, w in zip(params, start):
                p.copy_(w)
    return losses


def mlp(*sizes: int, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:]):
        layers += [nn.Linear(a, b, dtype=dtype), nn.Tanh()]
    return nn.Sequential(*layers)


class Heads(nn.Module):
    """A body, a head, and a scale that only some losses read."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(6, 8, dtype=dtype)
        self.head = nn.Linear(8, 1, dtype=dtype)
        self.table = nn.Embedding(5, 8, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))


class Alarm(Exception):
    pass


METHODS: dict[str, Callable[[nn.Module], MeZO]] = {
    "MeZO": lambda m: MeZO(m, lr=1e-3, eps=EPS, restore="inplace"),
    "lazy": lambda m: MeZO(m, lr=1e-3, eps=EPS, restore="inplace", lazy=True),
    "Adam": lambda m: ZOAdam(m, lr=1e-3, eps=EPS, restore="inplace"),
    "sparse": lambda m: zokern.optim.SparseMeZO(m, lr=1e-3, eps=EPS, restore="inplace"),
    "snapshot": lambda m: MeZO(m, lr=1e-3, eps=EPS, restore="snapshot"),
}
