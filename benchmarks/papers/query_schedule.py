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

from zokern.optim import AdaZeta, QuerySchedule

from .common import (
    BLUES,
    COLOURS,
    GREY,
    Experiment,
    Table,
    band,
    legend,
    mean_std,
    median,
    plot,
    short,
    title,
)
from .mnist import Curve, diverged, load, outcome, train, zeroth_order

SAMPLES, BATCH, EPS = 1_000, 16, 1e-3
RATES = (1e-3, 3e-3, 6e-3)
PASSES = 12_000
"""Of batches of 16."""


def main(argv: Sequence[str] | None = None) -> None:
    experiment = Experiment.start(
        argv,
        name="query_schedule",
        source="AdaZeta, figure 1 (query schedule)",
        claim="A number of queries that grows with the epoch converges faster than Q = 1 and does not diverge, with "
        "a much smaller batch.",
        description=__doc__,
        seeds=5,
    )
    data = load(experiment.quick).first(SAMPLES)
    passes = 80 if experiment.quick else PASSES
    points = 4 if experiment.quick else 24
    per_epoch = math.ceil(len(data.y) / BATCH)
    schedule = QuerySchedule(steps_per_epoch=per_epoch)
    methods: dict[str, tuple[QuerySchedule | int, int]] = {
        "Q = 1": (1, BATCH),
        "Q = 1, batch 64": (1, 4 * BATCH),
        "Q = 4": (4, BATCH),
        "AdaZeta schedule": (schedule, BATCH),
    }

    def run(name: str, rate: float, seed: int) -> Curve:
        queries, batch = methods[name]
        start = zeroth_order(
            data,
            lambda m: AdaZeta(m, lr=rate, eps=EPS, schedule=queries, restore="inplace", lazy=True, seed=seed),
        )
        return train(start, data, batch, passes * BATCH, seed, points)

    runs: dict[float, dict[str, list[Curve]]] = {rate: {name: [] for name in methods} for rate in RATES}
    with experiment.bar(len(RATES) * len(methods) * len(experiment.seeds)) as advance:
        for seed in experiment.seeds:
            for rate in RATES:
                for name in methods:
                    runs[rate][name].append(run(name, rate, seed))
                    advance(1, f"seed {seed}, rate {short(rate)}, {name}")

    last = {rate: {n: [c.loss[-1] for c in cs] for n, cs in by.items()} for rate, by in runs.items()}
    low = {rate: {n: [min(c.loss) for c in cs] for n, cs in by.items()} for rate, by in runs.items()}
    grown = schedule.queries(len(runs[RATES[0]]["AdaZeta schedule"][0].batch_loss) // per_epoch)
    rows = [
        [f"rate {short(rate)}, {name}", f"{len(runs[rate][name][0].batch_loss)}", outcome(last[rate][name]),
         mean_std(low[rate][name], ".3f"), mean_std([c.accuracy[-1] for c in runs[rate][name]], ".1f", 100)]
        for rate in RATES
        for name in methods
    ]  # fmt: skip

    figure, axes = plot(11.4, 4.2, columns=3, sharey=True)
    colours = {
        "Q = 1": BLUES[2],
        "Q = 1, batch 64": BLUES[1],
        "Q = 4": GREY,
        "AdaZeta schedule": COLOURS["AdaZeta"],
    }
    x = [passes * k / points for k in range(points + 1)]
    for axis, rate in zip(axes, RATES):
        for name, curves in runs[rate].items():
            losses = [[min(v, 9.0) if v == v else 9.0 for v in c.loss] for c in curves]
            band(axis, x, losses, name, colours[name])
        axis.set(xlabel=f"forward passes of a batch of {BATCH}", ylim=(0, 3.5))
    axes[0].set_ylabel("training loss")
    title(axes[0], f"rate {short(RATES[0])}", f"median and range of {len(experiment.seeds)} seeds")
    title(axes[1], f"rate {short(RATES[1])}", f"AdaZeta: Q from 1 to {grown}")
    title(axes[2], f"rate {short(RATES[2])}")
    legend(axes[0], loc="lower left")

    fast, slow = RATES[1], RATES[0]
    bad = {name: sum(map(diverged, last[fast][name])) for name in methods}
    experiment.save(
        tables=[
            Table(
                f"{data.source}, first {len(data.y)}; {passes} forward passes of a batch of {BATCH}",
                ["rate, method", "steps", "loss at the end", "lowest loss", "test accuracy %"],
                rows,
            )
        ],
        agrees=f"At rate {short(fast)} Q = 1 falls to {mean_std(low[fast]['Q = 1'], '.2f')} and then rises: "
        f"{outcome(last[fast]['Q = 1'], '.2f')} at the end ({bad['Q = 1']} of {len(experiment.seeds)} runs diverged). "
        f"AdaZeta's schedule, Q from 1 to {grown}, ends at {outcome(last[fast]['AdaZeta schedule'], '.2f')} "
        f"({bad['AdaZeta schedule']} diverged) with the same forward passes and batch; batch 64 at "
        f"{outcome(last[fast]['Q = 1, batch 64'], '.2f')}.",
        differs=f"At rate {short(slow)}, which Q = 1 bears for as long, Q = 1 is at "
        f"{outcome(last[slow]['Q = 1'], '.2f')} and the schedule at {outcome(last[slow]['AdaZeta schedule'], '.2f')}: "
        f"more queries are then fewer steps. A fixed Q = 4 ends at {outcome(last[fast]['Q = 4'], '.2f')} at "
        f"{short(fast)} and {outcome(last[RATES[2]]['Q = 4'], '.2f')} at {short(RATES[2])}, where the schedule's first "
        f"epochs have Q = 1: {outcome(last[RATES[2]]['AdaZeta schedule'], '.2f')}. Each at its best rate: "
        f"{best_of_each(last)}.",
        data={
            "passes": passes,
            "curves": {
                short(r): {n: [c.plain() for c in cs] for n, cs in by.items()} for r, by in runs.items()
            },
        },
        figure=figure,
    )


def best_of_each(last: dict[float, dict[str, list[float]]]) -> str:
    """Every method's lowest median over the rates, best first."""
    cells = [(*min((median(by[name]), rate) for rate, by in last.items()), name) for name in last[RATES[0]]]
    return ", ".join(f"{name} {value:.2f} ({short(rate)})" for value, rate, name in sorted(cells))


if __name__ == "__main__":
    main()
