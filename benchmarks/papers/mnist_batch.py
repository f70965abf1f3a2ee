r"""MNIST with the perceptron 784-32-16-10: what the batch size does to MeZO, and to MeZO-SVRG.

    python -m benchmarks.papers.mnist_batch [--quick] [--seeds N]

MeZO and FO-SGD as in the paper, with one MeZO rate for all batch sizes; MeZO-SVRG beside them, its large batch
of 1,024 samples drawn afresh at each full step, the rate of its mini-batch steps the same as MeZO's. All take
as many steps. The loss is that of 2,000 training samples at the weights themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from zokern.optim import MeZO, MeZOSVRG

from .common import (
    BLUES,
    COLOURS,
    REDS,
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
from .mnist import Curve, diverged, first_order, load, outcome, train, zeroth_order

BATCHES = (16, 32, 128)
RATE, ETA1, EPS, LARGE = 2e-3, 3e-3, 1e-3, 1024
FO_RATES = (1e-3, 1e-1)


def main(argv: Sequence[str] | None = None) -> None:
    experiment = Experiment.start(
        argv,
        name="mnist_batch",
        source="MeZO-SVRG, figure 1b and table 5",
        claim="On MNIST with the perceptron 784-32-16-10 MeZO is unstable at the smaller batch sizes, and FO-SGD is "
        "the bound on what can be reached.",
        description=__doc__,
        seeds=3,
    )
    data = load(experiment.quick)
    steps = 20 if experiment.quick else 6_000
    points = 4 if experiment.quick else 30
    large = min(LARGE, len(data.y) // 2)
    runs: dict[str, list[Curve]] = {}

    def mezo(seed: int, batch: int) -> Curve:
        start = zeroth_order(data, lambda m: MeZO(m, lr=RATE, eps=EPS, lazy=True, seed=seed))
        return train(start, data, batch, 2 * batch * steps, seed, points)

    def svrg(seed: int, batch: int) -> Curve:
        start = zeroth_order(
            data,
            lambda m: MeZOSVRG(
                m, lr=ETA1, lr_minibatch=RATE, eps=EPS, interval=2, restore="inplace", seed=seed
            ),
            large,
        )
        return train(start, data, batch, (large + 2 * batch) * steps, seed, points)

    def sgd(seed: int, rate: float) -> Curve:
        start = first_order(data, lambda m: torch.optim.SGD(m.parameters(), lr=rate))
        return train(start, data, 64, 64 * steps, seed, points)

    with experiment.bar(len(experiment.seeds) * (5 * len(BATCHES) + 2)) as advance:
        for seed in experiment.seeds:
            for batch in BATCHES:
                runs.setdefault(f"MeZO, batch {batch}", []).append(mezo(seed, batch))
                advance(2, f"seed {seed}, MeZO {batch}")
                runs.setdefault(f"MeZO-SVRG, batch {batch}", []).append(svrg(seed, batch))
                advance(3, f"seed {seed}, MeZO-SVRG {batch}")
            for rate in FO_RATES:
                runs.setdefault(f"FO-SGD {short(rate)}, batch 64", []).append(sgd(seed, rate))
                advance(1, f"seed {seed}, FO-SGD {short(rate)}")

    last = {name: [c.loss[-1] for c in curves] for name, curves in runs.items()}
    lowest = {name: [min(c.loss) for c in curves] for name, curves in runs.items()}
    rows = [
        [name, outcome(last[name]), mean_std(lowest[name], ".3f"),
         mean_std([c.accuracy[-1] for c in curves], ".1f", 100), f"{curves[0].at[-1] / 1e6:.2f}"]
        for name, curves in sorted(runs.items(), key=lambda item: item[0].split(",")[0])
    ]  # fmt: skip

    figure, axes = plot(9.6, 4.2, columns=2, sharey=True)
    x = [steps * k / points for k in range(points + 1)]
    for axis, method, shades in ((axes[0], "MeZO", BLUES), (axes[1], "MeZO-SVRG", REDS)):
        for batch, colour in zip(BATCHES, (shades[0], shades[1], shades[3])):
            losses = [
                [min(v, 9.0) if v == v else 9.0 for v in c.loss] for c in runs[f"{method}, batch {batch}"]
            ]
            band(axis, x, losses, f"batch {batch}", colour)
        for rate, dashes in zip(FO_RATES, (":", "--")):
            curves = [c.loss for c in runs[f"FO-SGD {short(rate)}, batch 64"]]
            band(axis, x, curves, f"FO-SGD {short(rate)}", COLOURS["FO-SGD"], ls=dashes, lw=1.4)
        axis.set(xlabel="step", ylim=(0, 3.2))
        legend(axis, loc="lower left" if method == "MeZO" else "upper right")
    axes[0].set_ylabel("training loss")
    title(
        axes[0],
        f"MeZO, rate {short(RATE)}",
        f"{data.source}; median and range of {len(experiment.seeds)} seeds",
    )
    title(axes[1], f"MeZO-SVRG, rates {short(ETA1)}, {short(RATE)}, q = 2", f"large batch {large}")

    small, big = BATCHES[0], BATCHES[-1]
    bad = {m: sum(map(diverged, last[f"{m}, batch {small}"])) for m in ("MeZO", "MeZO-SVRG")}
    spent = runs[f"MeZO, batch {big}"][0].at[-1]
    then = [c.loss[sum(at <= spent for at in c.at) - 1] for c in runs[f"MeZO-SVRG, batch {small}"]]
    fast = f"FO-SGD {short(FO_RATES[1])}, batch 64"
    slow = f"FO-SGD {short(FO_RATES[0])}, batch 64"
    experiment.save(
        tables=[
            Table(
                f"{data.source}, {steps} steps; training loss",
                ["method", "loss at the end", "lowest loss", "test accuracy %", "queries, millions"],
                rows,
            )
        ],
        agrees=f"MeZO at one rate ends at {outcome(last[f'MeZO, batch {small}'])} with batch {small}, "
        f"{outcome(last[f'MeZO, batch {BATCHES[1]}'])} with {BATCHES[1]} and {outcome(last[f'MeZO, batch {big}'])} with "
        f"{big}; on its way batch {small} had been at {mean_std(lowest[f'MeZO, batch {small}'], '.2f')}. FO-SGD at "
        f"{short(FO_RATES[1])} is far ahead ({outcome(last[fast])}). MeZO-SVRG ends at "
        f"{outcome(last[f'MeZO-SVRG, batch {small}'])} with batch {small} ({bad['MeZO-SVRG']} runs diverged, MeZO "
        f"{bad['MeZO']}) and {outcome(last[f'MeZO-SVRG, batch {big}'])} with {big}.",
        differs=f"Per query the picture is another: by the {spent / 1e6:.1f} M queries that MeZO with batch {big} has "
        f"spent in all, MeZO-SVRG with batch {small} is at {outcome(then)}. At the paper's rate for FO-SGD, "
        f"{short(FO_RATES[0])}, that ends at {outcome(last[slow])} after as many steps, "
        f"{'behind' if median(last[slow]) > median(last[f'MeZO, batch {big}']) else 'ahead of'} MeZO. The rate is "
        f"twice the paper's largest, so that the effect shows within {steps} steps.",
        data={"steps": steps, "curves": {name: [c.plain() for c in curves] for name, curves in runs.items()}},
        figure=figure,
    )


if __name__ == "__main__":
    main()
