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

from .common import Experiment, Table
from .figures import COLOURS, INK, plot, title
from .numbers import median, short

RATES = (1e-2, 3e-2, 1e-1)
STEEP_RATES = (1e-3, 3e-3, 1e-2)
"""Of the zeroth-order methods on Beale and Rosenbrock, whose gradients are large; Adam's step does not depend
on that."""
REACHED, NEAR = 0.05, 0.1
METHODS = ("Adam", "AdaMax", "MeZO", "ZO-AdaMU")
SAME = "MeZO, same rate"
Path = list[tuple[float, float]]


@dataclass(frozen=True)
class Surface:
    formula: str
    f: Callable[[Any, Any], Any]
    minimum: tuple[float, float]
    start: tuple[float, float]
    domain: float
    rates: tuple[float, ...] = RATES


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
        STEEP_RATES,
    ),
    "Rosenbrock": Surface(
        "Rosenbrock", lambda x, y: 100 * (x - y**2) ** 2 + (1 - y) ** 2, (1, 1), (0.5, -0.5), 4.5, STEEP_RATES
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

    def plain(self) -> dict[str, Any]:
        """What is kept: rate, ends, paces, and the path of median end, of at most 250 points."""
        order = sorted(range(len(self.last)), key=lambda k: self.last[k])
        path = self.paths[order[(len(order) - 1) // 2]]
        thin = path[:: -(-len(path) // 250)]
        return {
            "rate": self.rate,
            "last": self.last,
            "first_near": self.first_near,
            "path": [list(axis) for axis in zip(*thin, path[-1])],  # x, y
        }


def measure(experiment: Experiment) -> dict[str, Any]:
    """Every method's run at its best rate, and MeZO's at ZO-AdaMU's, by function."""
    steps = 40 if experiment.quick else 3000
    tried = 1 if experiment.quick else len(RATES)
    best: dict[str, dict[str, Any]] = {}
    with experiment.bar(len(SURFACES) * tried) as advance:
        for name, surface in SURFACES.items():
            every: dict[str, list[Runs]] = {m: [] for m in METHODS}
            for own, common in zip(surface.rates[:tried], RATES[:tried]):
                for method, runs in every.items():
                    draws = method in ("MeZO", "ZO-AdaMU")
                    rate = own if draws else common
                    seeds = experiment.seeds if draws else [0]
                    paths = [walk(surface, method, rate, steps, seed) for seed in seeds]
                    runs.append(Runs.of(surface, rate, paths))
                advance(1, f"{name}, rate {short(own)}")
            chosen = {m: min(runs, key=Runs.rank) for m, runs in every.items()}
            chosen[SAME] = next(r for r in every["MeZO"] if r.rate == chosen["ZO-AdaMU"].rate)
            best[name] = {m: r.plain() for m, r in chosen.items()}
    return {"steps": steps, "runs": best}


def reached(run: dict[str, Any]) -> int:
    """How many seeds ended at the minimum."""
    return sum(d < REACHED for d in run["last"])


def draw(data: dict[str, Any], seeds: int) -> Any:
    figure, axes = plot(9.6, 7.4, columns=3, rows=2)
    for axis, (name, surface) in zip(axes.flat, SURFACES.items()):
        half, runs = surface.domain, data["runs"][name]
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
        for method in METHODS:
            xs, ys = runs[method]["path"]
            width = {"Adam": 3.4, "AdaMax": 1.6}.get(method, 1.1)
            axis.plot(xs, ys, color=COLOURS[method], lw=width, alpha=0.9, label=method, zorder=3)
            axis.plot(xs[-1], ys[-1], "o", color=COLOURS[method], ms=5, zorder=6, mec="white", mew=0.6)
        axis.plot(*surface.minimum, "*", color="white", mec=INK, ms=13, zorder=5)
        axis.plot(*surface.start, "s", color=INK, ms=5, zorder=6)
        axis.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
        axis.grid(False)
        ends = ", ".join(f"{m} {reached(runs[m])}/{seeds}" for m in ("MeZO", "ZO-AdaMU"))
        title(axis, f"{name}: {surface.formula}" if len(name) == 1 else name, f"reached: {ends} seeds")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=INK
    )
    figure.suptitle(
        f"Square: start; star: minimum; dot: last of {data['steps']} steps (of {seeds} seeds the one of median end)",
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
        redraws=True,
    )
    data = experiment.numbers(lambda: measure(experiment))
    best, count = data["runs"], len(experiment.seeds)

    def pace(name: str, method: str) -> str:
        steps = median([v if v == v else math.inf for v in best[name][method]["first_near"]])
        return f"{steps:.0f}" if math.isfinite(steps) else "never"

    def whole(method: str) -> str:
        runs = {n: by[method] for n, by in best.items()}
        return ", ".join(n for n, r in runs.items() if reached(r) == len(r["last"])) or "none"

    rows = [
        [
            f"{name}, {method}",
            short(r["rate"]),
            f"{reached(r)}/{len(r['last'])}",
            f"{median(r['last']):.2g}",
            f"{max(v if v == v else math.inf for v in r['last']):.2g}",
            pace(name, method),
        ]
        for name, methods in best.items()
        for method, r in methods.items()
    ]
    names = tuple(SURFACES)
    worst = ", ".join(f"{max(best[n]['ZO-AdaMU']['last']):.1g}" for n in ("a", "b", "c"))
    paces = "; ".join(f"{n} {pace(n, 'MeZO')}, {pace(n, 'ZO-AdaMU')}, {pace(n, 'Adam')}" for n in names)
    experiment.save(
        tables=[
            Table(
                f"Distance to the minimum after {data['steps']} steps, {count} seeds (one for Adam and AdaMax, "
                f"which draw nothing); median steps until within {NEAR:g}",
                [
                    "function, method",
                    "rate",
                    f"within {REACHED:g}",
                    "median",
                    "worst",
                    f"steps to {NEAR:g}",
                ],
                rows,
            )
        ],
        agrees=f"ZO-AdaMU ends within {REACHED:g} of the minimum on every seed for {whole('ZO-AdaMU')} (Adam: "
        f"{whole('Adam')}; AdaMax: {whole('AdaMax')}); its worst ends on a, b, c are {worst} away. On Beale MeZO ends there "
        f"on {reached(best['Beale']['MeZO'])} of {count} seeds, on Rosenbrock MeZO on {reached(best['Rosenbrock']['MeZO'])} and "
        f"ZO-AdaMU on {reached(best['Rosenbrock']['ZO-AdaMU'])}.",
        differs=f"With a rate of its own MeZO reaches {whole('MeZO')}, and at ZO-AdaMU's rates {whole(SAME)}: that it finds "
        f"no minimum is not seen. Median steps until within {NEAR:g} with MeZO, ZO-AdaMU and Adam: {paces}.",
        data=data,
        figure=draw(data, count),
    )


if __name__ == "__main__":
    main()
