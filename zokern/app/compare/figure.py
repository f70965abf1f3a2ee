"""The learning curves of a comparison in one figure."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zokern.app.compare.baselines import BASELINES
from zokern.app.compare.options import CompareOptions
from zokern.app.methods import FIRST_ORDER_STEP, METHODS
from zokern.app.tasks import Task, UserError
from zokern.app.training.checkpoint import write_atomically

__all__ = ["draw_comparison", "mean_curve", "spread"]

# Okabe and Ito's colours, which the colour-blind tell apart, darkened where they are pale.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d00", "#7a3e9d", "#444444")
_MARKERS = "osD^vP*Xh"
_INK = "#333333"


def mean_curve(rows: Sequence[dict[str, Any]]) -> list[tuple[float, float, float]]:
    """(forward passes, mean accuracy, standard deviation) of the tests that all seeds have."""
    curves = [row["curve"] for row in rows]
    points = []
    for place in zip(*curves):
        values = [accuracy for _, accuracy, _ in place]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        points.append((place[0][0], statistics.fmean(values), deviation))
    return points


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights moved apart to at least `gap`, in the same order, as little as can be."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    blocks: list[list[int]] = []
    centre: list[float] = []
    for i in order:
        blocks.append([i])
        centre.append(heights[i])
        while len(blocks) > 1 and centre[-1] - centre[-2] < gap * (len(blocks[-1]) + len(blocks[-2])) / 2:
            last = blocks.pop()
            centre.pop()
            blocks[-1] += last
            centre[-1] = statistics.fmean(heights[j] for j in blocks[-1])
    moved = list(heights)
    for block, middle in zip(blocks, centre):
        for place, i in enumerate(block):
            moved[i] = middle + gap * (place - (len(block) - 1) / 2)
    return moved


def draw_comparison(
    rows: Sequence[dict[str, Any]], folder: Path, task: Task, options: CompareOptions
) -> Path:
    """Writes learning_curves.png: test accuracy against forward passes, each line named at its end.

    Raises:
        UserError: matplotlib is missing or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("The learning curves need matplotlib: pip install 'zokern[train]'.") from None
    good = [row for row in rows if "failed" not in row]
    figure = Figure(figsize=(9.5, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    ends, furthest = _draw_curves(axis, good, float(options.forwards))
    _write_names(axis, ends, furthest)
    _describe(axis, good, task, options)
    image = io.BytesIO()
    figure.savefig(image, format="png", bbox_inches="tight", pad_inches=0.15)
    write_atomically(folder / "learning_curves.png", image.getvalue())
    return folder / "learning_curves.png"


@dataclass(frozen=True)
class _End:
    """Where a line ends, and what is written there."""

    text: str
    x: float
    y: float
    colour: str


def _trained(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Labels of the runs that have a curve."""
    return list(dict.fromkeys(row["run"] for row in rows if row["method"] not in BASELINES))


def _draw_curves(axis: Any, rows: Sequence[dict[str, Any]], furthest: float) -> tuple[list[_End], float]:
    """A curve for each trained run, a level for each baseline; their ends, and the largest x."""
    start = next((row["accuracy"] for row in rows if row["run"] == "zero-shot"), None)
    ends = []
    for index, label in enumerate(_trained(rows)):
        runs = [row for row in rows if row["run"] == label]
        points = mean_curve(runs)
        colour = _COLOURS[index % len(_COLOURS)]
        x, y, error = ([point[k] for point in points] for k in range(3))
        furthest = max(furthest, x[-1])
        if start is not None and runs[0]["tuning"] != "prefix":  # the others start at the model itself
            x, y, error = [0.0, *x], [start, *y], [0.0, *error]
        first_order = METHODS[runs[0]["method"]].first_order
        style = {"color": colour, "lw": 1.8, "ls": (0, (4, 2)) if first_order else "-"}
        axis.plot(x, y, marker=_MARKERS[index % len(_MARKERS)], ms=4, **style)
        axis.plot(x[-1], y[-1], marker=_MARKERS[index % len(_MARKERS)], ms=8, color=colour, ls="")
        if len(runs) > 1:
            axis.errorbar(x[-1:], y[-1:], error[-1:], color=colour, capsize=3, lw=1.2, alpha=0.7)
        ends.append(_End(f"{label}  {100 * y[-1]:.1f} %", x[-1], y[-1], colour))
    for row in (row for row in rows if row["method"] in BASELINES):
        axis.axhline(row["accuracy"], color="#888888", lw=1, ls=":")
        text = f"{row['run']}  {100 * row['accuracy']:.1f} %"
        ends.append(_End(text, furthest, row["accuracy"], "#666666"))
    return ends, furthest


def _write_names(axis: Any, ends: Sequence[_End], furthest: float) -> None:
    """The names beside the lines' ends, moved apart."""
    heights = [end.y for end in ends]
    low, high = min([*axis.get_ylim(), *heights]), max([*axis.get_ylim(), *heights])
    gap = 0.047 * (high - low)
    placed = spread(heights, gap)
    low, high = min([low, *(p - gap for p in placed)]), max([high, *(p + gap for p in placed)])
    axis.set_ylim(low, high)
    axis.set_xlim(0, furthest * 1.02)
    for end, place in zip(ends, placed):
        axis.annotate(
            end.text,
            xy=(end.x, end.y),
            xytext=(furthest * 1.06, place),
            color=end.colour,
            fontsize=8.5,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": end.colour, "lw": 0.6, "alpha": 0.6, "shrinkB": 3},
        )


def _describe(axis: Any, rows: Sequence[dict[str, Any]], task: Task, options: CompareOptions) -> None:
    """Axes, title, and what has to be known to read the figure."""
    from matplotlib.ticker import PercentFormatter

    axis.set_xlabel(
        f"forward passes of {options.batch_size} examples (a first-order step counts {FIRST_ORDER_STEP:g})",
        color=_INK,
    )
    axis.set_ylabel("test accuracy", color=_INK)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    labels = _trained(rows)
    model = options.model or task.default_model
    seeds = max((sum(row["run"] == label for row in rows) for label in labels), default=1)
    axis.set_title(f"{task.name}: {model}, mean over {seeds} seed{'s' * (seeds > 1)}", loc="left", pad=22,
                   fontweight="bold", color=_INK, fontsize=11, parse_math=False)  # fmt: skip
    note = f"large markers: all {len(task.test_labels)} test examples, ± standard deviation"
    if options.evals and labels:
        note += f"; small ones: the first {min(options.eval_size, len(task.test_labels))}"
    if any(METHODS[row["method"]].first_order for row in rows if row["run"] in labels):
        note += "; broken lines: first order"
    axis.text(0, 1.015, note, transform=axis.transAxes, fontsize=8, color="#666666", va="bottom")
