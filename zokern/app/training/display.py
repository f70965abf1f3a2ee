"""What a run shows: a live line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["Display", "format_duration"]


def format_duration(seconds: float) -> str:
    """ "42 s", "3 min 05 s", "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Display:
    """Prints a run's header, progress and tables.

    Args:
        quiet: print nothing but the closing table.
        console: a rich console; default standard output.
    """

    def __init__(self, quiet: bool = False, console: Any = None) -> None:
        from rich.console import Console

        self.console = Console(highlight=False, soft_wrap=False) if console is None else console
        self.quiet = quiet
        self.live = self.console.is_terminal and not quiet

    def say(self, text: str = "") -> None:
        if not self.quiet:
            self.console.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Says what must not be missed, quiet or not."""
        self.console.print(text, markup=False, soft_wrap=True)

    def facts(self, rows: Sequence[tuple[str, str]]) -> None:
        """A two-column list without a frame."""
        if self.quiet:
            return
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(name, Text(value))  # no markup: "[...]" in a file's name is its name
        self.console.print(table)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A title, and a table whose first column names its rows. Where it is too wide for the terminal
        names are folded; numbers stay whole."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAVY)
        for index, column in enumerate(columns):
            if index == 0:
                table.add_column(column, overflow="fold")
            else:
                whole = max(
                    len(line) for text in (column, *(row[index] for row in rows)) for line in text.split("\n")
                )
                table.add_column(column, justify="right", no_wrap=True, min_width=whole)
        for row in rows:
            table.add_row(*row)
        self.console.print(title, style="bold", markup=False, soft_wrap=True)
        self.console.print(table)

    @contextmanager
    def bytes_bar(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Yields a download callback (bytes so far, bytes in all); nothing appears until it is
        called."""
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.live,
        )
        state: dict[str, Any] = {}

        def update(done: int, total: int) -> None:
            if "task" not in state:
                if not self.live:
                    self.say(f"{what} ({total / 1e6:.1f} MB)")
                bar.start()
                state["task"] = bar.add_task(what, total=total)
            bar.update(state["task"], completed=done, total=total)

        try:
            yield update
        finally:
            if "task" in state:
                bar.stop()

    @contextmanager
    def counter(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Yields `advance(n)` for a short job such as an evaluation; vanishes when done."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=self.console,
            transient=True,
            disable=not self.live,
        )
        with bar:
            task = bar.add_task(what, total=total)
            yield lambda n: bar.update(task, advance=n)

    @contextmanager
    def steps(self, total: int, done: int) -> Iterator[StepLine]:
        """Yields the training line; use its `update` after each step."""
        with StepLine(self, total, done) as line:
            yield line


class StepLine:
    """Loss, steps per second, share of time outside the forwards, time left."""

    def __init__(self, display: Display, total: int, done: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.display, self.total = display, total
        self.loss: float | None = None
        self.first, self.started = done, time.perf_counter()
        self.seconds = self.outside = 0.0
        self.bar = Progress(
            BarColumn(bar_width=max(8, min(32, display.console.width - 78))),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            console=display.console,
            disable=not display.live,
        )
        self.task = self.bar.add_task("training", total=total, completed=done, text="")

    def __enter__(self) -> StepLine:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, step: int, loss: float, seconds: float, outside: float) -> None:
        """After step `step` (from 1): its loss, its duration, and the part outside the forwards."""
        if loss == loss:
            self.loss = loss if self.loss is None else 0.9 * self.loss + 0.1 * loss
        self.seconds += seconds
        self.outside += outside
        rate = (step - self.first) / max(self.seconds, 1e-9)
        left = format_duration((self.total - step) / max(rate, 1e-9))
        text = (
            f"loss {self.loss if self.loss is not None else float('nan'):.4f}  {rate:.2f} steps/s  "
            f"outside forwards {100 * self.outside / max(self.seconds, 1e-9):.1f} %  {left} left"
        )
        self.bar.update(self.task, completed=step, text=text)
        every = max(1, self.total // 10)
        if not self.display.live and (step % every == 0 or step == self.total):
            self.display.say(f"step {step}/{self.total}  {text}")
