"""The progress of a comparison: over all runs, and within the present one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from zokern.app.compare.baselines import BASELINES
from zokern.app.compare.child import TRAIN
from zokern.app.compare.plan import Cell
from zokern.app.training.display import Display, format_duration
from zokern.app.training.folder import METRICS, STEPS

__all__ = ["Grid"]


class Grid:
    """Progress over all runs and within the present one."""

    def __init__(self, cells: list[Cell], display: Display) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.display, self.count, self.done = display, len(cells), 0
        self.started = time.perf_counter()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            console=display.console,
            disable=not display.live,
        )
        self.all = self.bar.add_task("runs", total=len(cells), text="")
        self.one = self.bar.add_task("", total=1, text="", visible=False)

    def __enter__(self) -> Grid:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, cell: Cell, home: Path) -> None:
        """Reads how far the present run is."""
        if not self.display.live:
            return
        steps = max(0, _lines(home / TRAIN / STEPS) - 1)  # the first line seals the options
        text = "loading" if not (home / TRAIN / METRICS).exists() else ""
        if cell.method in BASELINES or steps >= (cell.options.steps or 1):
            text = "testing"
        self.bar.update(
            self.one,
            description=f"{cell.label} seed {cell.seed}",
            completed=steps,
            total=cell.options.steps,
            text=text,
            visible=True,
        )

    def finished(self, cell: Cell, result: dict[str, Any]) -> None:
        """Says how a run ended."""
        self.done += 1
        self.bar.update(self.all, completed=self.done, text=f"{format_duration(self.elapsed)} so far")
        self.bar.update(self.one, visible=False)
        said = result.get("failed")
        if said is None:
            said = f"accuracy {100 * result['accuracy']:.1f} %"
            if result["seconds"]:
                said += (
                    f", {result['forward_passes']:g} forward passes in {format_duration(result['seconds'])}"
                )
        else:
            said = f"failed: {said}"
        self.display.say(f"{self.done}/{self.count} {cell.label} seed {cell.seed}: {said}")

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.started


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0
