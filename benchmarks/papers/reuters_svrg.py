"""Prompt-free fine-tuning on 512 examples: MeZO, MeZO-SVRG and first-order SGD at equal queries.

MeZO-SVRG's table 1 at our scale: MiniLM with a fresh head on Reuters R8 (8 topics), all parameters or the
last layer and the head. A query is the loss of one sample; the full batch of MeZO-SVRG is all 512. Each
zeroth-order method gets the best of its own learning rates, found on another seed.

Why one or the other is ahead can be measured. With the direction z drawn anew each step, what a step is
worth falls with the noise of its mini-batch as

    1 / (1 + r_b),      r_b = Var_batch[grad(batch) z] / E_z[(grad(all) z)^2],      r_b ~ 1 / b

A full step has no such noise but costs 512 / b steps of MeZO, so that it pays where r_b > 512 / b - 1,
that is where r_1, the ratio for single samples, passes 512 - b.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .common import Experiment, Table
from .figures import COLOURS, GREY, band, legend, plot, title
from .numbers import mean_std
from .reuters_runs import QUICK, WORDS, Bench, Setting, Sizes
from .texts import Kept

SEARCH_SEED = 100
TUNINGS = {"full": "all parameters", "partial": "last layer and head"}

MEZO = [Setting("MeZO", lr, 16) for lr in (1e-6, 1e-4, 3e-4, 1e-3)]
SVRG = [
    Setting("MeZO-SVRG", 1e-3, 16, lr_minibatch, interval)
    for lr_minibatch, interval in ((1e-6, 2), (1e-3, 2), (1e-4, 5))
]
SGD = {"full": Setting("FO-SGD", 1e-2, 64), "partial": Setting("FO-SGD", 1e-1, 64)}


def best(found: dict[Setting, float]) -> Setting:
    """The setting of lowest training loss."""
    return min(found, key=lambda s: found[s] if math.isfinite(found[s]) else math.inf)


@dataclass
class Outcome:
    """All runs of one tuning."""

    found: dict[Setting, float]
    chosen: dict[str, Setting]
    runs: dict[str, list[dict[str, Any]]]

    def final(self, method: str, column: int) -> list[float]:
        return [run["points"][-1][column] for run in self.runs[method]]


def measure(experiment: Experiment, kept: Kept, tuning: str, sizes: Sizes, folder: Any) -> Outcome:
    """The search of rates, then the chosen ones on every seed."""
    bench: list[Bench] = []
    full = tuning == "full"
    budget, marks = (sizes.full, sizes.full_marks) if full else (sizes.partial, sizes.partial_marks)
    search_budget = sizes.search_full if full else sizes.search_partial

    def run(setting: Setting, seed: int, queries: int, marks: int) -> dict[str, Any]:
        def train() -> dict[str, Any]:
            if not bench:
                bench.append(Bench(tuning, sizes, experiment.quick, folder))
            noise = marks > 1 and setting.method == "MeZO" and seed == 0
            return bench[0].run(setting, seed, queries, marks, noise)

        settings = {"tuning": tuning, **vars(setting), "seed": seed, "queries": queries, "words": WORDS}
        return kept.get(settings, train)

    search = [*MEZO, *SVRG, SGD[tuning]]
    if full or experiment.quick:  # a run costs four times one of the last layer
        search = [*MEZO[1:3], *SVRG[1:], SGD[tuning]]
    found = {}
    for setting in experiment.track(search, f"{tuning}: rates"):
        if setting.method == "FO-SGD":
            found[setting] = math.nan  # one rate does
            continue
        found[setting] = run(setting, SEARCH_SEED, search_budget, 1)["points"][-1][1]
    chosen = {
        method: best({s: loss for s, loss in found.items() if s.method == method})
        for method in ("MeZO", "MeZO-SVRG", "FO-SGD")
    }
    jobs = [(method, seed) for method in chosen for seed in experiment.seeds]
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in chosen}
    for method, seed in experiment.track(jobs, tuning):
        queries = sizes.first_order if method == "FO-SGD" else budget
        runs[method].append(run(chosen[method], seed, queries, marks))
    return Outcome(found, chosen, runs)


def tables(outcomes: dict[str, Outcome]) -> list[Table]:
    rows, searched = [], []
    for tuning, outcome in outcomes.items():
        for method, runs in outcome.runs.items():
            rows.append([
                f"{method}, {TUNINGS[tuning]}", str(outcome.chosen[method]), str(int(runs[0]["points"][-1][0])),
                str(runs[0]["steps"]), mean_std(outcome.final(method, 1), ".2f"),
                mean_std(outcome.final(method, 3), ".1f", 100),
            ])  # fmt: skip
        for setting, loss in outcome.found.items():
            if setting.method == "FO-SGD":
                continue
            searched.append([f"{setting.method}, {tuning}", str(setting), f"{loss:.3f}"])
    return [
        Table("Mean and standard deviation over seeds; MeZO-SVRG's full batch is all 512 examples",
              ["method", "setting", "queries", "steps", "training loss", "test %"], rows),
        Table("Search of the rates: training loss on another seed",
              ["method", "setting", "training loss"], searched),
    ]  # fmt: skip


def draw(outcomes: dict[str, Outcome], classes: int, sizes: Sizes) -> Any:
    figure, axes = plot(10.5, 4.0, columns=3, width_ratios=(1, 1, 0.9))
    for axis, (tuning, outcome) in zip(axes, outcomes.items()):
        for method, runs in outcome.runs.items():
            x = [point[0] / 1000 for point in runs[0]["points"]]
            band(
                axis,
                x,
                [[p[1] for p in run["points"]] for run in runs],
                method,
                COLOURS[method],
                marker="o",
                ms=3,
            )
        axis.axhline(math.log(classes), color=GREY, lw=1, ls=":")
        axis.set_ylim(0, 1.25 * math.log(classes))
        axis.set_xlabel("thousand queries (losses of one sample)")
        title(axis, f"{tuning.capitalize()} tuning", f"{TUNINGS[tuning]}; each method at its best rates")
    axes[0].set_ylabel("training loss")
    axes[0].text(0.02, math.log(classes) + 0.03, "uniform guess", color=GREY, fontsize=7.5)
    legend(axes[1])
    for tuning, outcome in outcomes.items():
        style = {"ls": "-" if tuning == "full" else "--", "marker": "o", "ms": 4}
        rates = {s.lr: loss for s, loss in outcome.found.items() if s.method == "MeZO"}
        axes[2].plot(
            list(rates), list(rates.values()), color=COLOURS["MeZO"], label=f"MeZO, {tuning}", **style
        )
        pairs = [(s.lr, loss) for s, loss in outcome.found.items() if s.method == "MeZO-SVRG"]
        axes[2].plot(
            *zip(*pairs), color=COLOURS["MeZO-SVRG"], ls="", marker="o" if tuning == "full" else "^", ms=5,
            label=f"MeZO-SVRG (η₁), {tuning}",
        )  # fmt: skip
    axes[2].axhline(math.log(classes), color=GREY, lw=1, ls=":")
    axes[2].set_xscale("log")
    axes[2].set_ylim(0, None)
    axes[2].set_xlabel("learning rate")
    title(
        axes[2],
        "The rate decides",
        f"after {sizes.search_full:,} (full), {sizes.search_partial:,} (partial) queries",
    )
    legend(axes[2], loc="lower left", fontsize=7.5)
    return figure


def verdict(outcomes: dict[str, Outcome], sizes: Sizes) -> tuple[str, str]:
    """What agrees and what does not, from the numbers."""
    agree, differ = [], []
    for tuning, outcome in outcomes.items():
        loss = {method: statistics.fmean(outcome.final(method, 1)) for method in outcome.runs}
        hits = {method: 100 * statistics.fmean(outcome.final(method, 3)) for method in outcome.runs}
        said = (
            f"{tuning} tuning: MeZO-SVRG {loss['MeZO-SVRG']:.2f} and {hits['MeZO-SVRG']:.0f} %, "
            f"MeZO {loss['MeZO']:.2f} and {hits['MeZO']:.0f} %"
        )
        spread = max(statistics.pstdev(outcome.final(method, 1)) for method in ("MeZO", "MeZO-SVRG"))
        if abs(loss["MeZO-SVRG"] - loss["MeZO"]) < spread:
            said += f", within the spread of {spread:.2f} over seeds"
        (agree if loss["MeZO-SVRG"] < loss["MeZO"] else differ).append(said)
        slow = {s.method: f for s, f in outcome.found.items() if 1e-6 in (s.lr, s.lr_minibatch)}
        if slow.get("MeZO-SVRG", math.inf) < slow.get("MeZO", -math.inf):
            agree.append(
                f"{tuning} tuning, at rates of the paper's grid (MeZO 1e-6; η₁ 1e-3, η₂ 1e-6) in the "
                f"search, MeZO-SVRG {slow['MeZO-SVRG']:.2f}, MeZO {slow['MeZO']:.2f}"
            )
        fastest = min(loss, key=lambda method: loss[method])
        (agree if fastest == "FO-SGD" else differ).append(
            f"{tuning} tuning: FO-SGD reaches {loss['FO-SGD']:.2f} and {hits['FO-SGD']:.0f} % in "
            f"{sizes.first_order:,} queries"
        )
    ratios = [outcome.runs["MeZO"][0]["noise"] for outcome in outcomes.values()]
    steps = {m: outcomes["partial"].runs[m][0]["steps"] for m in ("MeZO", "MeZO-SVRG")}
    why = (
        f"r₁, the noise of single samples in units of the signal, is about "
        f"{' and '.join(f'{ratio:.0f}' for ratio in ratios)} where MeZO ended (full and partial, over "
        f"{sizes.directions} directions), short of the {sizes.train} - b at which a full step would pay for itself: "
        f"its queries buy MeZO more by more directions, {steps['MeZO']} steps in place of {steps['MeZO-SVRG']} "
        f"(partial)."
    )
    parts = ["; ".join(agree) or "nothing", "; ".join(differ) or "nothing"]
    sentences = [part[0].upper() + part[1:] + " (training loss and test accuracy)." for part in parts]
    behind = any(o.final("MeZO-SVRG", 1) > o.final("MeZO", 1) for o in outcomes.values())
    return sentences[0], f"{sentences[1]} {why}" if behind else sentences[1]


def main(argv: Sequence[str] | None = None) -> None:
    experiment = Experiment.start(
        argv,
        name="reuters_svrg",
        source="MeZO-SVRG, table 1",
        claim="prompt-free fine-tuning on 512 examples, MeZO-SVRG beats MeZO at equal queries by up to 20 points "
        "of test accuracy, in full and in partial tuning, and nears FO-SGD; MeZO's loss stays near that of a "
        "uniform guess.",
        description=__doc__,
        seeds=3,
    )
    sizes = QUICK if experiment.quick else Sizes()
    kept = Kept(experiment)
    outcomes = {t: measure(experiment, kept, t, sizes, experiment.out) for t in reversed(TUNINGS)}
    outcomes = {t: outcomes[t] for t in TUNINGS}
    agrees, differs = verdict(outcomes, sizes)
    kept.charge(experiment)
    experiment.save(
        tables=tables(outcomes),
        agrees=agrees,
        differs=differs,
        data={
            tuning: {
                "runs": outcome.runs,
                "r1": outcome.runs["MeZO"][0]["noise"],
            }
            for tuning, outcome in outcomes.items()
        },
        figure=draw(outcomes, 2 if experiment.quick else 8, sizes),
    )


if __name__ == "__main__":
    main()
