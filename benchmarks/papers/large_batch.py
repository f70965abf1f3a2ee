r"""MeZO-SVRG with a large batch in place of the full one, on 512 MNIST images.

    python -m benchmarks.papers.large_batch [--quick] [--seeds N]

As in the paper: 512 samples, mini-batches of 64, q = 2, and full steps over 512, 256 or 128 samples, drawn
afresh each time where they are not all; there DistilBERT's last layers in bf16, here the perceptron
784-32-16-10 from random weights in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zokern.optim import MeZOSVRG

from .common import Experiment, Table
from .figures import REDS, band, legend, plot, title
from .mnist import Curve, curves, load, outcome, train, zeroth_order
from .numbers import mean_std, median, short

SAMPLES, BATCH = 512, 64
ETA1, ETA2, EPS = 3e-3, 1e-3, 1e-3
PRINTED = {512: ("0.4393", "70", "2560"), 256: ("0.4946", "71", "1536"), 128: ("0.5502", "69", "1024")}
"""Table 10: loss, test accuracy in per cent, thousands of queries."""


def measure(experiment: Experiment) -> dict[str, Any]:
    """Curves, a list a seed, by size of the large batch."""
    data = load(experiment.quick).first(SAMPLES)
    steps = 20 if experiment.quick else 8_000
    points = 5 if experiment.quick else 25

    def run(large: int, seed: int) -> dict[str, Any]:
        start = zeroth_order(
            data,
            lambda m: MeZOSVRG(
                m, lr=ETA1, lr_minibatch=ETA2, eps=EPS, interval=2, restore="inplace", seed=seed
            ),
            large,
        )
        return vars(train(start, data, BATCH, (large + 2 * BATCH) * steps, seed, points))

    runs: dict[int, list[Any]] = {large: [] for large in PRINTED}
    with experiment.bar(len(experiment.seeds) * len(runs)) as advance:
        for seed in experiment.seeds:
            for large, every in runs.items():
                every.append(run(large, seed))
                advance(1, f"seed {seed}, large batch {large}")
    return {"source": data.source, "steps": steps, "curves": runs}


def draw(data: dict[str, Any], runs: dict[int, list[Curve]]) -> Any:
    figure, axes = plot(9.6, 4.0, columns=2, sharey=True)
    points = len(runs[SAMPLES][0].at) - 1
    x = [data["steps"] * k / points for k in range(points + 1)]
    for (large, every), colour in zip(runs.items(), (REDS[3], REDS[2], REDS[0])):
        name = f"all {large}" if large == SAMPLES else f"{large} samples"
        band(axes[0], x, [c.capped() for c in every], name, colour)
        band(axes[1], [at / 1e6 for at in every[0].at], [c.capped() for c in every], name, colour)
    axes[0].set(xlabel="step", ylabel="training loss", ylim=(0, 2.5))
    axes[1].set(xlabel="queries, millions")
    title(axes[0], "at equal steps", f"median and range of {len(runs[SAMPLES])} seeds")
    title(axes[1], "at equal queries", f"rates {short(ETA1)}, {short(ETA2)}; mini-batch {BATCH}, q = 2")
    legend(axes[1], loc="upper right", title="full step over")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    experiment = Experiment.start(
        argv,
        name="large_batch",
        source="MeZO-SVRG, table 10",
        claim="Estimates over 256 or 128 samples in place of all 512 give comparable results "
        "(accuracy 70, 71, 69 %; loss 0.44, 0.49, 0.55) for fewer queries.",
        description=__doc__,
        seeds=3,
        redraws=True,
    )
    data = experiment.numbers(lambda: measure(experiment))
    runs = {large: curves(data["curves"][str(large)]) for large in PRINTED}
    budget = runs[128][0].at[-1]
    equal = {large: [c.loss_by(budget) for c in every] for large, every in runs.items()}
    end = {large: [c.end for c in every] for large, every in runs.items()}
    accuracy = {large: [c.accuracy[-1] for c in every] for large, every in runs.items()}
    cheap = {large: runs[SAMPLES][0].at[-1] / every[0].at[-1] for large, every in runs.items()}
    halfway = [c.loss_by(runs[256][0].at[-1]) for c in runs[SAMPLES]]
    lowest = [min(c.capped()) for c in runs[128]]
    worse = median(end[128]) > 1.2 * median(end[SAMPLES])
    experiment.save(
        tables=[
            Table(
                f"{data['source']}, the first {SAMPLES}, {data['steps']} steps; the last three columns are the paper's",
                [
                    "large batch",
                    "loss",
                    "test accuracy %",
                    "queries, thousands",
                    f"loss at {budget / 1e3:.0f} thousand",
                    "loss",
                    "accuracy %",
                    "queries",
                ],
                [
                    [
                        str(large),
                        outcome(end[large]),
                        mean_std(accuracy[large], ".1f", 100),
                        f"{every[0].at[-1] / 1e3:.0f}",
                        outcome(equal[large]),
                        *PRINTED[large],
                    ]
                    for large, every in runs.items()
                ],
            )
        ],
        agrees=f"256 of the 512 samples end at {outcome(end[256])} and {mean_std(accuracy[256], '.1f', 100)} % where all of "
        f"them end at {outcome(end[SAMPLES])} and {mean_std(accuracy[SAMPLES], '.1f', 100)} %, for {cheap[256]:.1f} times "
        f"fewer queries; with as many, all 512 are at {outcome(halfway)}.",
        differs=f"128 samples, {cheap[128]:.1f} times cheaper, end at {outcome(end[128])}, after a lowest loss of "
        f"{mean_std(lowest, '.2f')}"
        + (
            ": near the highest rates that full steps bear, their noise is too much late in the run."
            if worse
            else "."
        ),
        data=data,
        figure=draw(data, runs),
    )


if __name__ == "__main__":
    main()
