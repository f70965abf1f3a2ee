"""The learning curve of a run as a PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zokern.app.tasks import UserError
from zokern.app.training.checkpoint import write_atomically

__all__ = ["learning_curve", "smooth"]

_LOSS, _ACCURACY, _CALIBRATED, _INK = "#3465a4", "#c4501b", "#e9a87c", "#333333"


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The mean over what there is of a centred window; non-finite values are left out."""
    half = window // 2
    means = []
    for i in range(len(values)):
        near = [v for v in values[max(0, i - half) : i + half + 1] if math.isfinite(v)]
        means.append(sum(near) / len(near) if near else math.nan)
    return means


def learning_curve(
    rows: Sequence[dict[str, Any]],
    path: Path,
    title: str,
    note: str = "",
    calibrated: bool = True,
) -> Path:
    """Draws loss (raw and smoothed) and test accuracy over the steps.

    Args:
        rows: of metrics.jsonl.
        path: the PNG to write, replaced atomically.
        title: above the plot.
        note: below it, small.
        calibrated: also draw the accuracy with the label prior removed.

    Raises:
        UserError: matplotlib is missing or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("The learning curve needs matplotlib: pip install 'zokern[train]'.") from None
    figure = Figure(figsize=(8, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    loss_axis = figure.add_subplot()
    _draw_losses(loss_axis, [row for row in rows if row["kind"] == "step"])
    axis = loss_axis.twinx()
    _draw_accuracies(axis, [row for row in rows if row["kind"] == "eval"], calibrated)
    for one, colour in ((loss_axis, _LOSS), (axis, _ACCURACY)):
        one.tick_params(axis="y", colors=colour)
        for side in ("top", "left", "right", "bottom"):
            one.spines[side].set_visible(side == "bottom")
    _add_legend(figure, loss_axis, axis, calibrated)
    # a "$" in the name of a file or a model is no mathematics
    plain: dict[str, Any] = {"parse_math": False}
    if note:
        loss_axis.text(
            0, 1.01, note, transform=loss_axis.transAxes, fontsize=7.5, color="#777777", va="bottom", **plain
        )
    pad = 18 if note else None
    loss_axis.set_title(title, loc="left", fontweight="bold", color=_INK, fontsize=11, pad=pad, **plain)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
    return path


def _draw_losses(axis: Any, steps: Sequence[dict[str, Any]]) -> None:
    """The loss of each step, and smoothed."""
    from matplotlib.ticker import MaxNLocator

    x = [row["step"] for row in steps]
    losses = [float(row["loss"]) if row["loss"] is not None else math.nan for row in steps]
    axis.plot(x, losses, color=_LOSS, alpha=0.22, linewidth=0.9)
    window = max(5, len(losses) // 12)
    axis.plot(x, smooth(losses, window), color=_LOSS, linewidth=2.2)
    axis.set_xlabel("step", color=_INK)
    axis.set_ylabel("training loss", color=_LOSS)
    finite = sorted(loss for loss in losses if math.isfinite(loss))
    if finite:  # a few wild steps must not flatten the rest
        low, high = finite[len(finite) // 200], finite[-1 - len(finite) // 200]
        margin = 0.08 * (high - low) or 0.1
        axis.set_ylim(max(0.0, low - margin), high + margin)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)


def _draw_accuracies(axis: Any, evals: Sequence[dict[str, Any]], calibrated: bool) -> None:
    """The accuracy of each test, the first and the last in numbers."""
    from matplotlib.ticker import PercentFormatter

    at = [row["step"] for row in evals]
    accuracy = [row["accuracy"] for row in evals]
    prior_free = [row["calibrated_accuracy"] for row in evals] if calibrated else []
    if calibrated:
        axis.plot(at, prior_free, color=_CALIBRATED, linestyle=":", marker="o", ms=4, lw=1.6)
    # Two points are no curve: nothing is known of the way between them.
    line = {"linewidth": 2.0} if len(at) > 2 else {"linewidth": 0.9, "alpha": 0.4, "linestyle": "--"}
    axis.plot(at, accuracy, color=_ACCURACY, **line)
    axis.plot(at, accuracy, color=_ACCURACY, marker="o", markersize=6, linestyle="")
    for index in sorted({0, len(at) - 1}) if at else []:
        first, high = index == 0, accuracy[index] > 0.92
        axis.annotate(
            f"{100 * accuracy[index]:.1f} %",
            (at[index], accuracy[index]),
            textcoords="offset points",
            xytext=(9, -12) if first else (0, -17 if high else 10),
            ha="left" if first else "right",
            color=_ACCURACY,
            fontweight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0},
        )
    if evals:
        axis.axhline(evals[0]["majority"], color="#9a9a9a", linewidth=1, linestyle="--")
        floor = min([*accuracy, *prior_free, evals[0]["majority"]])
        axis.set_ylim(max(0.0, floor - 0.08), 1.0)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_ylabel("test accuracy", color=_ACCURACY)


def _add_legend(figure: Any, loss_axis: Any, axis: Any, calibrated: bool) -> None:
    handles: list[Any] = [
        (loss_axis.plot([], [], color=_LOSS, linewidth=2.2)[0], "training loss (thin: every step)"),
        (axis.plot([], [], color=_ACCURACY, marker="o")[0], "test accuracy"),
        (axis.plot([], [], color=_CALIBRATED, ls=":", marker="o")[0], "same, label prior removed"),
        (axis.plot([], [], color="#9a9a9a", ls="--", lw=1)[0], "largest class"),
    ]
    if not calibrated:
        del handles[2]
    figure.legend(
        [line for line, _ in handles],
        [text for _, text in handles],
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
    )
