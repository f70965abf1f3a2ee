"""The house style of the figures: colours, axes, titles, bands."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .numbers import median

INK, GREY, LIGHT = "#333333", "#8a8a8a", "#e6e6e6"
COLOURS = {
    "MeZO": "#3465a4",
    "MeZO-SVRG": "#c4501b",
    "ZO-SVRG": "#8a5fb0",
    "ZO-AdaMU": "#c4501b",
    "ZO-Adam": "#2f8f5b",
    "ZO-AdamW": "#7fb04f",
    "ZO-AdaMax": "#b8860b",
    "ZO-AdaMM": "#8a5fb0",
    "AdaZeta": "#c4501b",
    "FO-SGD": "#555555",
    "Adam": "#2f8f5b",
    "AdaMax": "#b8860b",
}
"""One colour a method, in all figures."""

BLUES = ("#bcd2ea", "#7ba4d4", "#3465a4", "#1b3a66")
REDS = ("#f3c7b0", "#e2906a", "#c4501b", "#7f2f0c")
"""Light to dark, for a method at several settings."""


def plot(
    width: float = 8.0, height: float = 4.2, columns: int = 1, rows: int = 1, **options: Any
) -> tuple[Any, Any]:
    """A figure and its axes in the house style: a light grid, no frame, ink-coloured text."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, **options)
    for axis in figure.axes:
        axis.grid(color=LIGHT, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(colors=INK, labelsize=9)
        axis.xaxis.label.set_color(INK)
        axis.yaxis.label.set_color(INK)
        for side in ("top", "left", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes


def title(axis: Any, text: str, note: str = "") -> None:
    """A bold title at the left; the note below it in small grey."""
    axis.set_title(text, loc="left", fontweight="bold", color=INK, fontsize=10.5, pad=18 if note else 6)
    if note:
        axis.text(0, 1.015, note, transform=axis.transAxes, fontsize=8, color=GREY, va="bottom")


def legend(axis: Any, **options: Any) -> None:
    """A legend without a frame."""
    axis.legend(**{"frameon": False, "fontsize": 8.5, "labelcolor": INK, **options})


def save_png(figure: Any, path: Path) -> None:
    """Writes a figure in 256 colours, a third of the bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as image:
        # the other methods of Pillow merge the colours of thin lines
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(path, optimize=True)


def band(
    axis: Any,
    x: Sequence[float],
    runs: Sequence[Sequence[float]],
    label: str,
    colour: str,
    **line: Any,
) -> None:
    """The median over runs as a line, and from the lowest to the highest run as a band."""
    columns = list(zip(*runs))
    axis.fill_between(x, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.15, lw=0)
    axis.plot(x, [median(c) for c in columns], color=colour, label=label, **{"lw": 2.0, **line})
