r"""Six functions of two variables: the ways of Adam, AdaMax, MeZO and ZO-AdaMU to the minimum.

    python -m benchmarks.papers.trajectories [--quick] [--seeds N]

The paper gives the functions and no setting. Here all four start at one point (a function) and take as many
steps, with a rate that falls to zero along a cosine; each method has its best rate of one grid, by the number
of seeds that reach the minimum and then by the median of the last distances. The table has MeZO at ZO-AdaMU's
rate as well. A function counts as reached when the last point is within 0.05 of the minimum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zokern.optim import MeZO, ZOAdaMU

from .common import COLOURS, INK, Experiment, Table, median, plot, short, title

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
REACHED, NEAR = 0.05, 0.1
Path = list[tuple[float, float]]


@dataclass(frozen=True)
class Surface:
    formula: str
    f: Callable[[Any, Any], Any]
    minimum: tuple[float, float]
    start: tuple[float, float]
    domain: float


SURFACES = {
    "a": Surface("|x| + |y|", lambda x, y: abs(x) + abs(y), (0, 0), (2.5, -2.0), 3),
    "b": Surface("|x+y| + |x-y|/10", lambda x, y: abs(x + y) + abs(x - y) / 10, (0, 0), (2.5, 1.0), 3),
    "c": Surface("(x+y)² + (x-y)²/10", lambda x, y: (x + y) ** 2 + (x - y) ** 2 / 10, (0, 0), (2.5, 1.0), 3),
    "d": Surface("|x|/10 + |y|", lambda x, y: abs(x) / 10 + abs(y), (0, 0), (2.5, -2.0), 3),
    "Beale": Surface(
        "Beale",
        lambda x, y: (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2,
        (3, 0.5),
        (1.0, 1.5),
        4.5,
    ),
    "Rosenbrock": Surface(
        "Rosenbrock", lambda x, y: 100 * (x - y**2) ** 2 + (1 - y) ** 2, (1, 1), (0.5, -0.5), 4.5
    ),
}


def walk(surface: Surface, method: str, rate: float, steps: int, seed: int) -> Path:
    """Every point of one run."""
    at = nn.Parameter(torch.tensor(surface.start, dtype=torch.float64))
    optimizer: Any
    if method == "MeZO":
        optimizer = MeZO([at], lr=rate, seed=seed)
    elif method == "ZO-AdaMU":
        optimizer = ZOAdaMU([at], lr=rate, schedule=steps, seed=seed)
    else:
        optimizer = {"Adam": torch.optim.Adam, "AdaMax": torch.optim.Adamax}[method]([at], lr=rate)

    def value() -> Tensor:
        return surface.f(at[0], at[1])

    def with_gradient() -> Tensor:
        optimizer.zero_grad()
        loss = value()
        loss.backward()
        return loss

    closure = value if method in ("MeZO", "ZO-AdaMU") else with_gradient
    path = [surface.start]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        optimizer.step(closure)
        x, y = at.tolist()
        path.append((x, y))
    return path


@dataclass
class Runs:
    """A method on a function at one rate, all seeds."""

    rate: float
    paths: list[Path]
    last: list[float]
    first_near: list[float]

    @classmethod
    def of(cls, surface: Surface, rate: float, paths: list[Path]) -> Runs:
        away = [[math.dist(p, surface.minimum) for p in path] for path in paths]
        last = [d[-1] if math.isfinite(d[-1]) else math.inf for d in away]
        near = [next((n for n, d in enumerate(ds) if d < NEAR), math.inf) for ds in away]
        return cls(rate, paths, last, near)

    @property
    def reached(self) -> int:
        return sum(d < REACHED for d in self.last)

    def rank(self) -> tuple[int, float, float]:
        """Least for the best rate: most seeds that reach the minimum, then the nearest median end."""
        return -self.reached, median(self.last), self.rate

    def typical(self) -> Path:
        """The run of median end."""
        order = sorted(range(len(self.last)), key=lambda k: self.last[k])
        return self.paths[order[(len(order) - 1) // 2]]


def draw(best: dict[str, dict[str, Runs]], seeds: int, steps: int) -> Any:
    figure, axes = plot(9.6, 7.4, columns=3, rows=2)
    for axis, (name, surface) in zip(axes.flat, SURFACES.items()):
        half = surface.domain
        x, y = torch.meshgrid(*[torch.linspace(-half, half, 161, dtype=torch.float64)] * 2, indexing="xy")
        level = torch.log10(surface.f(x, y) + 1e-3)
        axis.contour(
            x.numpy(),
            y.numpy(),
            level.numpy(),
            levels=14,
            colors="#cfcfcf",
            linewidths=0.7,
            linestyles="solid",
        )
        for method, runs in best[name].items():
            if method == "MeZO, same rate":
                continue
            xs, ys = zip(*runs.typical())
            width = {"Adam": 3.2, "AdaMax": 1.6}.get(method, 1.1)
            axis.plot(xs, ys, color=COLOURS[method], lw=width, alpha=0.9, label=method, zorder=3)
            axis.plot(xs[-1], ys[-1], "o", color=COLOURS[method], ms=5, zorder=6, mec="white", mew=0.6)
        axis.plot(*surface.minimum, "*", color="white", mec=INK, ms=13, zorder=5)
        axis.plot(*surface.start, "s", color=INK, ms=5, zorder=6)
        axis.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
        axis.grid(False)
        ends = ", ".join(f"{m} {best[name][m].reached}/{seeds}" for m in ("MeZO", "ZO-AdaMU"))
        title(axis, f"{name}: {surface.formula}" if len(name) == 1 else name, f"reached: {ends} seeds")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=INK
    )
    figure.suptitle(
        f"Square: start; star: minimum; dot: last of {steps} steps (the run of median end of {seeds} seeds)",
        fontsize=9.5,
        color=INK,
    )
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    experiment = Experiment.start(
        argv,
        name="trajectories",
        source="ZO-AdaMU, figure 2",
        claim="On six functions of two variables ZO-AdaMU reaches the optimal points, with ways similar to "
        "Adam's and AdaMax's on a, b, c and faster than theirs on d, Beale and Rosenbrock; MeZO fails to find "
        "any global minimum.",
        description=__doc__,
        seeds=5,
    )
    steps = 40 if experiment.quick else 2000
    grid = RATES[1:3] if experiment.quick else RATES
    best: dict[str, dict[str, Runs]] = {}
    with experiment.bar(len(SURFACES) * len(grid)) as advance:
        for name, surface in SURFACES.items():
            every: dict[str, list[Runs]] = {m: [] for m in ("Adam", "AdaMax", "MeZO", "ZO-AdaMU")}
            for rate in grid:
                for method, runs in every.items():
                    seeds = experiment.seeds if method in ("MeZO", "ZO-AdaMU") else [0]
                    paths = [walk(surface, method, rate, steps, seed) for seed in seeds]
                    runs.append(Runs.of(surface, rate, paths))
                advance(1, f"{name}, rate {short(rate)}")
            best[name] = {m: min(runs, key=Runs.rank) for m, runs in every.items()}
            same = best[name]["ZO-AdaMU"].rate
            best[name]["MeZO, same rate"] = next(r for r in every["MeZO"] if r.rate == same)

    count = len(experiment.seeds)
    rows = [
        [f"{name}, {method}", short(r.rate), f"{r.reached}/{len(r.last)}", f"{median(r.last):.2g}",
         f"{max(r.last):.2g}", f"{median(r.first_near):.0f}"]
        for name, methods in best.items()
        for method, r in methods.items()
    ]  # fmt: skip

    def reached(method: str, names: Sequence[str]) -> list[str]:
        return [name for name in names if best[name][method].reached == len(best[name][method].last)]

    def list_of(names: Sequence[str]) -> str:
        return ", ".join(names) if names else "none"

    simple, hard = ("a", "b", "c"), ("d", "Beale", "Rosenbrock")
    adamu, mezo = reached("ZO-AdaMU", simple), reached("MeZO", tuple(SURFACES))
    pace = "; ".join(
        f"{name}: {median(best[name]['MeZO'].first_near):.0f} and {median(best[name]['ZO-AdaMU'].first_near):.0f}"
        for name in SURFACES
    )
    experiment.save(
        tables=[
            Table(
                f"Distance to the minimum after {steps} steps, {count} seeds (one for Adam and AdaMax, which "
                f"draw nothing)",
                ["function, method", "rate", "within 0.05", "median", "worst", f"steps to {NEAR:g}"],
                rows,
            )
        ],
        agrees=f"ZO-AdaMU ends within {REACHED:g} of the minimum, on every seed, for {list_of(adamu)} of a, b, c, "
        f"and for {list_of(reached('ZO-AdaMU', hard))} of d, Beale, Rosenbrock (Adam: "
        f"{list_of(reached('Adam', tuple(SURFACES)))}). At ZO-AdaMU's rates MeZO reaches "
        f"{list_of(reached('MeZO, same rate', tuple(SURFACES)))}.",
        differs=f"With a rate of its own MeZO reaches {list_of(mezo)}: that it finds no minimum is not seen. Steps "
        f"until within {NEAR:g} (median), MeZO and ZO-AdaMU: {pace}.",
        data={
            "steps": steps,
            "runs": {
                name: {
                    m: {"rate": r.rate, "last": r.last, "first_near": r.first_near}
                    for m, r in methods.items()
                }
                for name, methods in best.items()
            },
        },
        figure=draw(best, count, steps),
    )


if __name__ == "__main__":
    main()
