r"""MeZO-SVRG's perturbation scale and its interval q, on 512 MNIST images.

    python -m benchmarks.papers.eps_and_interval [--quick] [--seeds N]

The paper fine-tunes DistilBERT on MNLI for 200 steps over the scale (figure 4) and 3500 over q (figure 5).
Here the perceptron 784-32-16-10 learns 512 images from random weights. q is compared at equal steps, as the
paper does, and at equal queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zokern.optim import MeZOSVRG

from .common import Experiment, Table
from .figures import REDS, band, legend, plot, title
from .mnist import Curve, curves, diverged, load, outcome, train, zeroth_order
from .numbers import mean_std, median, short

SAMPLES, BATCH = 512, 64
ETA1, ETA2 = 3e-3, 1e-3
SCALES = (1.0, 0.5, 0.1, 1e-2, 1e-3, 1e-4)
INTERVALS = (1, 2, 5, 10)
SHADES = {1: REDS[3], 2: REDS[2], 5: REDS[1], 10: REDS[0]}
COOL = ("#7f2f0c", "#c4501b", "#e9a87c", "#7ba4d4", "#3465a4", "#1b3a66")


def measure(experiment: Experiment) -> dict[str, Any]:
    """Curves, a list a seed, by scale (at q = 2) and by interval (at a scale of 1e-3)."""
    data = load(experiment.quick).first(SAMPLES)
    size = len(data.y)
    steps = 20 if experiment.quick else 2_000
    points = 5 if experiment.quick else 25

    def run(eps: float, interval: int, seed: int) -> dict[str, Any]:
        start = zeroth_order(
            data,
            lambda m: MeZOSVRG(
                m, lr=ETA1, lr_minibatch=ETA2, eps=eps, interval=interval, restore="inplace", seed=seed
            ),
            size,
        )
        budget = (2 * size + 4 * BATCH * (interval - 1)) / interval * steps
        return vars(train(start, data, BATCH, budget, seed, points))

    scales: dict[str, list[Any]] = {short(eps): [] for eps in SCALES}
    intervals: dict[int, list[Any]] = {q: [] for q in INTERVALS}
    with experiment.bar(len(experiment.seeds) * (len(SCALES) + len(INTERVALS) - 1)) as advance:
        for seed in experiment.seeds:
            for eps in SCALES:
                scales[short(eps)].append(run(eps, 2, seed))
                advance(1, f"seed {seed}, eps {short(eps)}")
            for q in INTERVALS:
                intervals[q].append(scales["1e-3"][seed] if q == 2 else run(1e-3, q, seed))
                advance(float(q != 2), f"seed {seed}, q {q}")
    return {"source": data.source, "size": size, "steps": steps, "scales": scales, "intervals": intervals}


def draw(data: dict[str, Any], scales: dict[float, list[Curve]], intervals: dict[int, list[Curve]]) -> Any:
    points = len(intervals[1][0].at) - 1
    x = [data["steps"] * k / points for k in range(points + 1)]
    figure, axes = plot(9.6, 4.2, columns=2, sharey=True)
    for (eps, every), colour in zip(scales.items(), COOL):
        band(axes[0], x, [c.capped() for c in every], f"ε = {short(eps)}", colour)
    for q, every in intervals.items():
        band(axes[1], x, [c.capped() for c in every], f"q = {q}", SHADES[q])
    for axis in axes:
        axis.set(xlabel="step", ylim=(1.2, 3.0))
        legend(axis, loc="lower left")
    axes[0].set_ylabel("training loss")
    seeds = len(intervals[1])
    title(
        axes[0], "perturbation scale ε (q = 2)", f"{data['size']} images; median and range of {seeds} seeds"
    )
    title(axes[1], "interval q (ε = 1e-3)", f"rates {short(ETA1)}, {short(ETA2)}; mini-batch {BATCH}")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    experiment = Experiment.start(
        argv,
        name="eps_and_interval",
        source="MeZO-SVRG, figures 4 and 5",
        claim="Perturbation scales below 0.1 make no difference and larger ones diverge; a smaller q converges "
        "faster a step, and q >= 2 is more stable than full-batch steps alone (q = 1).",
        description=__doc__,
        seeds=3,
        redraws=True,
    )
    data = experiment.numbers(lambda: measure(experiment))
    steps = data["steps"]
    scales = {eps: curves(data["scales"][short(eps)]) for eps in SCALES}
    intervals = {q: curves(data["intervals"][str(q)]) for q in INTERVALS}
    budget = min(every[0].at[-1] for every in intervals.values())
    equal = {q: [c.loss_by(budget) for c in every] for q, every in intervals.items()}
    rises = {
        q: [sum(b > a for a, b in zip(c.loss, c.loss[1:])) for c in every] for q, every in intervals.items()
    }
    looks = len(intervals[1][0].at) - 1
    end_eps = {eps: [c.end for c in every] for eps, every in scales.items()}
    end_q = {q: [c.end for c in every] for q, every in intervals.items()}
    small = [median(end_eps[eps]) for eps in SCALES if eps <= 1e-2]
    by_step = sorted(INTERVALS, key=lambda q: median(end_q[q]))
    by_query = sorted(INTERVALS, key=lambda q: median(equal[q]))
    wild = [short(eps) for eps in SCALES if any(map(diverged, end_eps[eps]))]
    experiment.save(
        tables=[
            Table(
                f"Perturbation scale: training loss after {steps} steps",
                ["ε", "loss", "test accuracy %"],
                [
                    [short(eps), outcome(end_eps[eps]), mean_std([c.accuracy[-1] for c in every], ".1f", 100)]
                    for eps, every in scales.items()
                ],
            ),
            Table(
                f"Interval: training loss after {steps} steps, and after {budget / 1e6:.2f} M queries; how often of "
                f"{looks} looks it had risen",
                ["q", "loss, equal steps", "queries, millions", "loss, equal queries", "rises"],
                [
                    [
                        str(q),
                        outcome(end_q[q]),
                        f"{intervals[q][0].at[-1] / 1e6:.2f}",
                        outcome(equal[q]),
                        mean_std(rises[q], ".1f"),
                    ]
                    for q in INTERVALS
                ],
            ),
        ],
        agrees=f"ε from 1e-2 down to 1e-4 makes no difference: median losses of {min(small):.3f} to {max(small):.3f}. "
        f"ε = 0.1, 0.5 and 1 end at {outcome(end_eps[0.1])}, {outcome(end_eps[0.5])} and {outcome(end_eps[1.0])} "
        f"(diverged: {', '.join(wild) or 'none'}). At equal steps the order of q, best first, is "
        f"{', '.join(map(str, by_step))} ({', '.join(f'{median(end_q[q]):.2f}' for q in by_step)}).",
        differs=f"At equal queries the order is {', '.join(map(str, by_query))} "
        f"({', '.join(f'{median(equal[q]):.2f}' for q in by_query)}), after {budget / 1e6:.2f} M. On stability: the loss "
        f"had risen at {mean_std(rises[1], '.1f')} of {looks} looks with q = 1 and at {mean_std(rises[2], '.1f')} with "
        f"q = 2; η₁ is three times η₂ here (a hundred times in the paper's figure), so that a small q also "
        f"means longer steps.",
        data=data,
        figure=draw(data, scales, intervals),
    )


if __name__ == "__main__":
    main()
