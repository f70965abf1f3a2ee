"""Small problems, the table of optimizers, and a plain float64 oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import zokern
from zokern.optim import MeZO, ZerothOrderOptimizer

EPS = 2.0**-7
LR = 0.05

# keyword arguments of each way of restoring weights
RESTORES: dict[str, dict[str, Any]] = {
    "inplace": {"restore": "inplace"},
    "inplace-lazy": {"restore": "inplace", "lazy": True},
    "exact": {"restore": "exact"},
    "exact-lazy": {"restore": "exact", "lazy": True},
    "snapshot": {"restore": "snapshot"},
    "snapshot-lazy": {"restore": "snapshot", "lazy": True},
}


class Bowl(nn.Module):
    """sum_i a_i (w_i - t_i)^2 over three tensors of odd sizes, in two modules."""

    def __init__(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        sizes = {"first": (3, 5), "second": (7,)}
        for name, size in sizes.items():
            start = torch.randn(size, generator=generator).to(dtype).to(device)
            setattr(self, name, nn.Parameter(start))
        self.inner = Leaf(torch.randn(9, generator=generator).to(dtype).to(device))

    def forward(self) -> Tensor:
        total = self.inner()
        for p in (self.first, self.second):
            w = p.double().flatten()
            a = torch.linspace(0.5, 1.5, w.numel(), dtype=torch.float64, device=w.device)
            total = total + (a * (w - 0.25) ** 2).sum()
        return total


class Fit(nn.Module):
    """|| x W^T + b - y ||^2 of a linear layer, with orthogonal columns of x: a bowl whose optimizer is
    given the layer, and whose loss is computed from the layer's outputs, as batched evaluation needs."""

    def __init__(self, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)

        def draw(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64)

        inputs = torch.linalg.qr(draw(9, 6))[0]
        self.layer = nn.Linear(6, 4, dtype=dtype, device=device)
        with torch.no_grad():
            self.layer.weight.copy_(draw(4, 6))
            self.layer.bias.copy_(draw(4))
        self.x = inputs.to(dtype).to(device)
        self.y = self.x.double().sum(1, keepdim=True).expand(9, 4)

    def forward(self) -> Tensor:
        return (self.layer(self.x).double() - self.y).square().sum()


class Leaf(nn.Module):
    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start)

    def forward(self) -> Tensor:
        return (self.weight.double() ** 2).sum()


@dataclass
class Oracle:
    """The method in plain float64, on a list of tensors; z comes from `zokern.normal`."""

    options: dict[str, Any]
    momenta: list[Tensor] | None = None
    past: list[list[Tensor]] = field(default_factory=list)

    def step(self, weights: list[Tensor], loss: Callable[[Sequence[Tensor]], float], t: int) -> float:
        o = {"num_queries": 1, "one_sided": False, "weight_decay": 0.0, "momentum": 0.0, **self.options}
        grad = [torch.zeros_like(w) for w in weights]
        losses = []
        for query in range(o["num_queries"]):
            seed = zokern.derive_seed(o.get("seed", 0), t, query)
            z = [
                zokern.normal(
                    w.shape, seed, stream=i, distribution=o.get("distribution", "gaussian")
                ).double()
                for i, w in enumerate(weights)
            ]
            plus = loss([w + EPS * d for w, d in zip(weights, z)])
            if o["one_sided"]:
                base = loss(weights)
                losses += [base]
                g = (plus - base) / EPS
            else:
                minus = loss([w - EPS * d for w, d in zip(weights, z)])
                losses += [plus, minus]
                g = (plus - minus) / (2 * EPS)
            grad = [a + g * d / o["num_queries"] for a, d in zip(grad, z)]
        self.past.append(grad)
        window = o.get("momentum_window") or len(self.past)
        for i, w in enumerate(weights):
            move = sum(o["momentum"] ** age * old[i] for age, old in enumerate(self.past[::-1][:window]))
            w.mul_(1 - LR * o["weight_decay"]).sub_(LR * move)
        return sum(losses) / len(losses)


@dataclass(frozen=True)
class Method:
    """A row of the table: an optimizer, its options, its oracle and its first losses on the bowl."""

    kind: type[ZerothOrderOptimizer]
    options: dict[str, Any]
    golden: tuple[float, ...]
    oracle: type[Oracle] = Oracle
    steps: int = 300  # to get down on the bowl
    depth: float = 20.0  # by this factor
    rate: float = 1.0  # at this multiple of the usual rate
    gaussian: bool = False  # draws no other distribution
    tolerance: float = 2e-6  # against the oracle, over the distance gone
    problem: type[nn.Module] = Bowl

    @property
    def batched(self) -> bool:
        return self.options.get("evaluation") == "batched"

    def make(self, params: Any, **options: Any) -> ZerothOrderOptimizer:
        if isinstance(params, Fit):
            params = params.layer
        if isinstance(options.get("module"), Fit):
            options["module"] = options["module"].layer
        return self.kind(params, **{"lr": LR, "eps": EPS, **self.options, **options})

    def log(self, step: int, difference: float) -> list[float]:
        """Losses that a step may have seen, each query's two apart by `difference`."""
        queries = self.options.get("num_queries", 1)
        base = 1.0 + 0.125 * step
        if self.options.get("one_sided"):
            return [base, *(base + difference * (q + 1) for q in range(queries))]
        return [x for q in range(queries) for x in (base + difference * (q + 1), base)]


METHODS: dict[str, Method] = {
    "MeZO": Method(MeZO, {}, (50.71455, 57.63186, 57.13175, 63.16161)),
    "MeZO-3-queries": Method(
        MeZO, {"num_queries": 3, "weight_decay": 0.1}, (50.71426, 46.93826, 45.34651, 41.86144)
    ),
    "MeZO-one-sided": Method(
        MeZO, {"num_queries": 2, "one_sided": True}, (50.71235, 49.19959, 48.28955, 48.05475)
    ),
    "MeZO-rademacher": Method(
        MeZO, {"distribution": "rademacher", "seed": 2**64 - 1}, (50.71424, 53.92741, 56.46212, 56.46933)
    ),
    "MeZO-momentum": Method(
        MeZO, {"momentum": 0.5, "weight_decay": 0.1}, (50.71455, 57.21156, 70.25561, 89.72636)
    ),
    "MeZO-window": Method(
        MeZO,
        {"momentum": 0.5, "momentum_window": 3, "num_queries": 2},
        (50.71442, 49.29082, 52.08618, 58.97736),
    ),
}


def values(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Equal bits, tensor by tensor (a NaN or -0.0 counts as what it is)."""
    return len(a) == len(b) and all(
        torch.equal(x.cpu().contiguous().view(torch.uint8), y.cpu().contiguous().view(torch.uint8))
        for x, y in zip(a, b)
    )
