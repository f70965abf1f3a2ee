r"""AdaZeta's growing number of queries against a fixed one, at equal forward passes.

    python -m benchmarks.papers.query_schedule [--quick] [--seeds N]

The paper tunes Llama-2-7B with batches of 16 and shows MeZO-LoRA (Q = 1) diverge or stall where AdaZeta goes
on; a larger batch is the usual remedy. Here the perceptron 784-32-16-10 learns 1,000 MNIST images (the paper's
number) from random weights at three rates, of which Q = 1 bears the first. All methods get the same number of
forward passes of one sample: Q = 4 and batch 64 take fewer steps for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from zokern.optim import AdaZeta, QuerySchedule

from .common import Experiment, Table
from .figures import BLUES, COLOURS, GREY, band, legend, plot, title
from .mnist import Curve, curves, load, outcome, train, zeroth_order
from .numbers import mean_std, median, short

SAMPLES, BATCH, EPS = 1_000, 16, 1e-3
RATES = (1e-3, 3e-3, 6e-3)
GROWING = "AdaZeta schedule"
PASSES = 12_000
"""Of batches of 16."""


def schedules(samples: int) -> dict[str, tuple[QuerySchedule | int, int]]:
    """Name to queries a step and batch size."""
    growing = QuerySchedule(steps_per_epoch=math.ceil(samples / BATCH))
    return {
        "Q = 1": (1, BATCH),
        "Q = 1, batch 64": (1, 4 * BATCH),
        "Q = 4": (4, BATCH),
        GROWING: (growing, BATCH),
    }


def measure(experiment: Experiment) -> dict[str, Any]:
    """Curves, a list a seed, by rate and method."""
    data = load(experiment.quick).first(SAMPLES)
    passes = 80 if experiment.quick else PASSES
    points = 4 if experiment.quick else 24
    methods = schedules(len(data.y))

    def run(name: str, rate: float, seed: int) -> dict[str, Any]:
        queries, batch = methods[name]
        start = zeroth_order(
            data,
            lambda m: AdaZeta(m, lr=rate, eps=EPS, schedule=queries, restore="inplace", lazy=True, seed=seed),
        )
        return vars(train(start, data, batch, passes * BATCH, seed, points))

    runs: dict[str, dict[str, list[Any]]] = {short(rate): {name: [] for name in methods} for rate in RATES}
    with experiment.bar(len(RATES) * len(methods) * len(experiment.seeds)) as advance:
        for seed in experiment.seeds:
            for rate in RATES:
                for name in methods:
                    runs[short(rate)][name].append(run(name, rate, seed))
                    advance(1, f"seed {seed}, rate {short(rate)}, {name}")
    return {"source": data.source, "samples": len(data.y), "passes": passes, "curves": runs}


def draw(data: dict[str, Any], runs: dict[float, dict[str, list[Curve]]], grown: int) -> Any:
    figure, axes = plot(11.0, 4.2, columns=3, sharey=True)
    colours = {"Q = 1": BLUES[2], "Q = 1, batch 64": BLUES[1], "Q = 4": GREY, GROWING: COLOURS["AdaZeta"]}
    for axis, rate in zip(axes, RATES):
        for name, every in runs[rate].items():
            points = len(every[0].at) - 1
            x = [data["passes"] * k / points / 1e3 for k in range(points + 1)]
            band(axis, x, [c.capped() for c in every], name, colours[name])
        axis.set(xlabel=f"thousand forward passes of a batch of {BATCH}", ylim=(0, 4.0))
    axes[0].set_ylabel("training loss")
    seeds = len(runs[RATES[0]][GROWING])
    title(axes[0], f"rate {short(RATES[0])}", f"median and range of {seeds} seeds")
    title(axes[1], f"rate {short(RATES[1])}", f"schedule: Q from 1 to {grown}")
    title(axes[2], f"rate {short(RATES[2])}", f"{data['samples']} images, perceptron 784-32-16-10")
    legend(axes[0], loc="upper left")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    experiment = Experiment.start(
        argv,
        name="query_schedule",
        source="AdaZeta, figure 1 (query schedule)",
        claim="A number of queries that grows with the epoch converges faster than Q = 1 and does not diverge, with "
        "a much smaller batch.",
        description=__doc__,
        seeds=5,
        redraws=True,
    )
    data = experiment.numbers(lambda: measure(experiment))
    methods = schedules(data["samples"])
    runs = {rate: {n: curves(data["curves"][short(rate)][n]) for n in methods} for rate in RATES}
    last = {rate: {n: [c.end for c in every] for n, every in by.items()} for rate, by in runs.items()}
    low = {
        rate: {n: [min(c.capped()) for c in every] for n, every in by.items()} for rate, by in runs.items()
    }
    steps = runs[RATES[0]][GROWING][0].steps
    grown = QuerySchedule().queries(steps // math.ceil(data["samples"] / BATCH))
    slow, fast, fastest = RATES

    def at(rate: float, name: str) -> str:
        return outcome(last[rate][name], ".2f")

    experiment.save(
        tables=[
            Table(
                f"{data['source']}, the first {data['samples']}; {data['passes']} forward passes of a batch of {BATCH}",
                ["rate, method", "steps", "loss at the end", "lowest loss", "test accuracy %"],
                [
                    [
                        f"rate {short(rate)}, {name}",
                        f"{runs[rate][name][0].steps}",
                        outcome(last[rate][name]),
                        mean_std(low[rate][name], ".3f"),
                        mean_std([c.accuracy[-1] for c in runs[rate][name]], ".1f", 100),
                    ]
                    for rate in RATES
                    for name in methods
                ],
            )
        ],
        agrees=f"At rate {short(fast)} Q = 1 falls to {mean_std(low[fast]['Q = 1'], '.2f')} and then rises "
        f"({at(fast, 'Q = 1')} at the end). AdaZeta's schedule, Q from 1 to {grown}, ends at {at(fast, GROWING)} with the "
        f"same forward passes and batch; a batch of 64 in place of more queries at {at(fast, 'Q = 1, batch 64')}, a "
        f"fixed Q = 4 at {at(fast, 'Q = 4')}.",
        differs=f"At rate {short(slow)}, which Q = 1 bears for as long, the order is reversed, since more queries are "
        f"fewer steps: Q = 1 {at(slow, 'Q = 1')}, the schedule {at(slow, GROWING)}. At {short(fastest)} the schedule's "
        f"first epochs, with Q = 1, are too much ({at(fastest, GROWING)}), and a fixed Q = 4 is well "
        f"({at(fastest, 'Q = 4')}). Each at its best rate: {best_of_each(last)}.",
        data=data,
        figure=draw(data, runs, grown),
    )


def best_of_each(last: dict[float, dict[str, list[float]]]) -> str:
    """Every method's lowest median over the rates, best first."""
    cells = [(*min((median(by[name]), rate) for rate, by in last.items()), name) for name in last[RATES[0]]]
    return ", ".join(f"{name} {value:.2f} ({short(rate)})" for value, rate, name in sorted(cells))


if __name__ == "__main__":
    main()
