r"""MeZO-SVRG's perturbation scale and its interval q, on 512 MNIST images.

    python -m benchmarks.papers.eps_and_interval [--quick] [--seeds N]

The paper fine-tunes DistilBERT on MNLI for 200 steps over the scale (figure 4) and 3500 over q (figure 5).
Here the perceptron 784-32-16-10 learns 512 images from random weights. q is compared at equal steps, as the
paper does, and at equal queries.
"""

from __future__ import annotations

from collections.abc import Sequence

from zokern.optim import MeZOSVRG

from .common import REDS, Experiment, Table, band, legend, mean_std, median, plot, short, title
from .mnist import Curve, diverged, load, outcome, train, zeroth_order

SAMPLES, BATCH = 512, 64
ETA1, ETA2 = 3e-3, 1e-3
SCALES = (1.0, 0.5, 0.1, 1e-2, 1e-3, 1e-4)
INTERVALS = (1, 2, 5, 10)
SHADES = {1: REDS[3], 2: REDS[2], 5: REDS[1], 10: REDS[0]}
COOL = ("#7f2f0c", "#c4501b", "#e9a87c", "#7ba4d4", "#3465a4", "#1b3a66")


def main(argv: Sequence[str] | None = None) -> None:
    experiment = Experiment.start(
        argv,
        name="eps_and_interval",
        source="MeZO-SVRG, figures 4 and 5",
        claim="Perturbation scales below 0.1 make no difference and larger ones diverge; a smaller q converges "
        "faster a step, and q >= 2 is more stable than full-batch steps alone (q = 1).",
        description=__doc__,
        seeds=3,
    )
    data = load(experiment.quick).first(SAMPLES)
    size = len(data.y)
    steps = 20 if experiment.quick else 3_000
    points = 5 if experiment.quick else 25

    def run(eps: float, interval: int, seed: int) -> Curve:
        start = zeroth_order(
            data,
            lambda m: MeZOSVRG(
                m, lr=ETA1, lr_minibatch=ETA2, eps=eps, interval=interval, restore="inplace", seed=seed
            ),
            size,
        )
        budget = (2 * size + 4 * BATCH * (interval - 1)) / interval * steps
        return train(start, data, BATCH, budget, seed, points)

    scales: dict[float, list[Curve]] = {eps: [] for eps in SCALES}
    intervals: dict[int, list[Curve]] = {q: [] for q in INTERVALS}
    with experiment.bar(len(experiment.seeds) * (len(SCALES) + len(INTERVALS) - 1)) as advance:
        for seed in experiment.seeds:
            for eps in SCALES:
                scales[eps].append(run(eps, 2, seed))
                advance(1, f"seed {seed}, eps {short(eps)}")
            for q in INTERVALS:
                if q != 2:
                    intervals[q].append(run(1e-3, q, seed))
                    advance(1, f"seed {seed}, q {q}")
    intervals[2] = scales[1e-3]

    budget = min(curves[0].at[-1] for curves in intervals.values())
    equal = {
        q: [c.loss[sum(at <= budget for at in c.at) - 1] for c in curves] for q, curves in intervals.items()
    }
    rises = {q: [sum(b > a for a, b in zip(c.loss, c.loss[1:])) / points for c in curves]
             for q, curves in intervals.items()}  # fmt: skip
    x = [steps * k / points for k in range(points + 1)]
    figure, axes = plot(9.6, 4.2, columns=2, sharey=True)
    for (eps, curves), colour in zip(scales.items(), COOL):
        losses = [[min(v, 9.0) if v == v else 9.0 for v in c.loss] for c in curves]
        band(axes[0], x, losses, f"ε = {short(eps)}", colour)
    for q, curves in intervals.items():
        losses = [[min(v, 9.0) if v == v else 9.0 for v in c.loss] for c in curves]
        band(axes[1], x, losses, f"q = {q}", SHADES[q])
    for axis in axes:
        axis.set(xlabel="step", ylim=(0, 3.0))
        legend(axis, loc="lower left")
    axes[0].set_ylabel("training loss")
    title(
        axes[0],
        "perturbation scale ε (q = 2)",
        f"{size} images; median and range of {len(experiment.seeds)} seeds",
    )
    title(axes[1], "interval q (ε = 1e-3)", f"rates {short(ETA1)}, {short(ETA2)}; mini-batch {BATCH}")

    small = [eps for eps in SCALES if eps <= 1e-2]
    middles = [median([c.loss[-1] for c in scales[eps]]) for eps in small]
    end_eps = {eps: [c.loss[-1] for c in curves] for eps, curves in scales.items()}
    end_q = {q: [c.loss[-1] for c in curves] for q, curves in intervals.items()}
    by_step = sorted(INTERVALS, key=lambda q: median(end_q[q]))
    by_query = sorted(INTERVALS, key=lambda q: median(equal[q]))
    wild = [short(eps) for eps in SCALES if any(map(diverged, end_eps[eps]))]
    experiment.save(
        tables=[
            Table(
                f"Perturbation scale: training loss after {steps} steps",
                ["ε", "loss", "test accuracy %"],
                [
                    [
                        short(eps),
                        outcome(end_eps[eps]),
                        mean_std([c.accuracy[-1] for c in curves], ".1f", 100),
                    ]
                    for eps, curves in scales.items()
                ],
            ),
            Table(
                f"Interval: training loss after {steps} steps, and after the {budget / 1e6:.2f} M queries of the "
                f"largest",
                [
                    "q",
                    "loss, equal steps",
                    "queries, millions",
                    "loss, equal queries",
                    "looks at which it rose %",
                ],
                [
                    [
                        str(q),
                        outcome(end_q[q]),
                        f"{intervals[q][0].at[-1] / 1e6:.2f}",
                        outcome(equal[q]),
                        mean_std(rises[q], ".0f", 100),
                    ]
                    for q in INTERVALS
                ],
            ),
        ],
        agrees=f"ε from 1e-2 down to 1e-4 ends within {max(middles) - min(middles):.3f} of each other (median loss "
        f"{min(middles):.3f} to {max(middles):.3f}); ε = 0.1, 0.5 and 1 end at {outcome(end_eps[0.1])}, "
        f"{outcome(end_eps[0.5])} and {outcome(end_eps[1.0])} (diverged: {', '.join(wild) or 'none'}). At equal steps "
        f"the order of q, best first, is {', '.join(map(str, by_step))}: "
        f"{', '.join(f'{median(end_q[q]):.2f}' for q in by_step)}.",
        differs=f"At equal queries the order is {', '.join(map(str, by_query))} "
        f"({', '.join(f'{median(equal[q]):.2f}' for q in by_query)}): the gain of a small q a step is the price of its "
        f"full batches. Stability: q = 1 rose at {mean_std(rises[1], '.0f', 100)} % of the looks, q = 2 at "
        f"{mean_std(rises[2], '.0f', 100)} %; here a full step is also three times as long as the others.",
        data={
            "steps": steps,
            "eps": {short(e): [c.plain() for c in cs] for e, cs in scales.items()},
            "q": {q: [c.plain() for c in cs] for q, cs in intervals.items()},
        },
        figure=figure,
    )


if __name__ == "__main__":
    main()
