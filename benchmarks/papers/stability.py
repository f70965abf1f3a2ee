r"""Which rates a batch size bears: MeZO and MeZO-SVRG on 512 MNIST images.

    python -m benchmarks.papers.stability [--quick] [--seeds N]

The paper fine-tunes RoBERTa-large on 512 sentences at a few batch sizes. Here the perceptron 784-32-16-10
learns 512 images from random weights, at every rate of a grid: a method is robust where its curves over the
rate do not come apart with the batch size. MeZO-SVRG takes one rate for both kinds of step (as in the paper's
theorem), the same as MeZO's, so that nothing but the variance reduction differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zokern.optim import MeZO, MeZOSVRG

from .common import Experiment, Table
from .figures import BLUES, REDS, legend, plot, title
from .mnist import DIVERGED, Curve, curves, diverged, load, outcome, train, zeroth_order
from .numbers import median, short

METHODS, BATCHES, SAMPLES = ("MeZO", "MeZO-SVRG"), (4, 16, 64), 512
RATES = (1e-3, 3e-3, 1e-2)
EPS = 1e-3


def measure(experiment: Experiment) -> dict[str, Any]:
    """Curves, a list a seed, by method, batch size and rate."""
    data = load(experiment.quick).first(SAMPLES)
    steps = 20 if experiment.quick else 1_500
    rates = RATES[:2] if experiment.quick else RATES
    size = len(data.y)

    def run(method: str, batch: int, rate: float, seed: int) -> Curve:
        if method == "MeZO":
            start = zeroth_order(data, lambda m: MeZO(m, lr=rate, eps=EPS, lazy=True, seed=seed))
            return train(start, data, batch, 2 * batch * steps, seed, points=10)
        start = zeroth_order(
            data,
            lambda m: MeZOSVRG(
                m, lr=rate, lr_minibatch=rate, eps=EPS, interval=2, restore="inplace", seed=seed
            ),
            size,
        )
        return train(start, data, batch, (size + 2 * batch) * steps, seed, points=10)

    runs: dict[str, dict[int, dict[str, list[Any]]]] = {}
    with experiment.bar(2 * len(BATCHES) * len(rates) * len(experiment.seeds)) as advance:
        for method in METHODS:
            for batch in BATCHES:
                for rate in rates:
                    for seed in experiment.seeds:
                        by_rate = runs.setdefault(method, {}).setdefault(batch, {})
                        by_rate.setdefault(short(rate), []).append(vars(run(method, batch, rate, seed)))
                        advance(1, f"{method}, batch {batch}, rate {short(rate)}")
    return {"source": data.source, "size": size, "steps": steps, "rates": list(rates), "curves": runs}


Losses = dict[str, dict[int, dict[float, list[float]]]]
"""Loss at the end, a list a seed, by method, batch size and rate."""


def draw(data: dict[str, Any], last: Losses, seeds: int) -> Any:
    rates = data["rates"]
    figure, axes = plot(9.6, 4.2, columns=2, sharey=True)
    for axis, method, shades in ((axes[0], "MeZO", BLUES), (axes[1], "MeZO-SVRG", REDS)):
        styles = zip(BATCHES, (shades[0], shades[1], shades[3]), (9, 5, 2))
        for batch, colour, width in styles:  # the widths show curves that lie on each other
            heights = [min(median(last[method][batch][r]), DIVERGED) for r in rates]
            axis.plot(rates, heights, color=colour, lw=width, label=f"batch {batch}")
            for r in rates:
                values = [DIVERGED if diverged(v) else v for v in last[method][batch][r]]
                axis.plot([r] * len(values), values, "o", color=colour, ms=width + 3, alpha=0.6)
        axis.axhline(DIVERGED, color="#9a9a9a", lw=1, ls="--")
        axis.text(rates[0], DIVERGED + 0.06, "diverged", fontsize=8.5, color="#777777")
        axis.set(xscale="log", xlabel="learning rate", ylim=(0, DIVERGED + 0.4))
        axis.set_xticks(rates, [short(r) for r in rates])
        axis.minorticks_off()
        legend(axis, loc="upper left", bbox_to_anchor=(0, 0.9))
    axes[0].set_ylabel(f"training loss after {data['steps']} steps")
    title(axes[0], "MeZO", f"{data['size']} images; line: median of {seeds} seeds, dots: each")
    title(axes[1], "MeZO-SVRG, q = 2, one rate for both steps", "full batch of all images every other step")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    experiment = Experiment.start(
        argv,
        name="stability",
        source="MeZO-SVRG, figure 6",
        claim="Fine-tuning RoBERTa-large, MeZO tends to diverge with smaller batches and MeZO-SVRG does not.",
        description=__doc__,
        seeds=3,
        redraws=True,
    )
    data = experiment.numbers(lambda: measure(experiment))
    rates, steps = data["rates"], data["steps"]
    runs = {
        m: {b: {r: curves(data["curves"][m][str(b)][short(r)]) for r in rates} for b in BATCHES}
        for m in METHODS
    }
    last: Losses = {
        m: {b: {r: [c.end for c in runs[m][b][r]] for r in rates} for b in BATCHES} for m in METHODS
    }
    bad = {m: {b: sum(diverged(v) for r in rates for v in last[m][b][r]) for b in BATCHES} for m in METHODS}
    at_best = {
        m: ", ".join(f"{min(median(last[m][b][r]) for r in rates):.2f}" for b in BATCHES) for m in METHODS
    }
    small, big = BATCHES[0], BATCHES[-1]
    total = len(rates) * len(experiment.seeds)
    cost = runs["MeZO-SVRG"][big][rates[0]][0].at[-1] / runs["MeZO"][big][rates[0]][0].at[-1]
    experiment.save(
        tables=[
            Table(
                f"Training loss after {steps} steps ({data['source']}, the first {data['size']})",
                ["method", *(f"rate {short(r)}" for r in rates)],
                [
                    [f"{m}, batch {b}", *(outcome(last[m][b][r], ".2f") for r in rates)]
                    for m in METHODS
                    for b in BATCHES
                ],
            )
        ],
        agrees=f"Batch {small}: {bad['MeZO'][small]} of MeZO's {total} runs diverged, {bad['MeZO-SVRG'][small]} of "
        f"MeZO-SVRG's; batch {big}: {bad['MeZO'][big]} and {bad['MeZO-SVRG'][big]}. At each batch size's best rate the loss "
        f"is, for batch {small}, {BATCHES[1]} and {big}: MeZO {at_best['MeZO']}; MeZO-SVRG {at_best['MeZO-SVRG']}.",
        differs=f"That is at equal steps: with batch {big} a MeZO-SVRG step costs {cost:.1f} times the queries of "
        f"MeZO's. At the highest rate, {short(rates[-1])}, where the one random direction makes the noise rather than "
        f"the batch, MeZO with batch {big} ends at {outcome(last['MeZO'][big][rates[-1]], '.2f')} and MeZO-SVRG at "
        f"{outcome(last['MeZO-SVRG'][big][rates[-1]], '.2f')}.",
        data=data,
        figure=draw(data, last, len(experiment.seeds)),
    )


if __name__ == "__main__":
    main()
