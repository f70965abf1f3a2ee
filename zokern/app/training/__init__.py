"""`zokern train` without the command line.

from zokern.app.training import TrainOptions, run_training
summary = run_training(TrainOptions(task="digits"))
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zokern.app.methods import METHODS, Closures, Method, Progress
from zokern.app.options import TrainOptions
from zokern.app.tasks import UserError
from zokern.app.training.display import Display
from zokern.app.training.loop import Stopped, train
from zokern.app.training.report import draw, finish, show_header, show_resume
from zokern.app.training.run import Run, new_run, resumed_run
from zokern.app.training.skipped import refuse_unlearned

__all__ = [
    "METHODS",
    "Closures",
    "Display",
    "Method",
    "Progress",
    "Run",
    "Stopped",
    "TrainOptions",
    "new_run",
    "resumed_run",
    "run_training",
    "terminate_as_interrupt",
]


def run_training(
    options: TrainOptions | None = None,
    *,
    resume: str | Path | None = None,
    steps: int | None = None,
    overwrite: bool = False,
    display: Display | None = None,
) -> dict[str, Any]:
    """Trains, evaluates and writes a run's folder.

    Args:
        options: of a new run.
        resume: the folder of a run to continue, instead of `options`.
        steps: with `resume`, a new total number of steps.
        overwrite: replace a run that is in the folder.
        display: where to print; default standard output.

    Returns:
        The summary that is also in summary.json.

    Raises:
        UserError: anything the user can put right.
        Stopped: Ctrl-C or a termination signal; the run can be resumed.

    Example:
        >>> summary = run_training(TrainOptions(task="digits", steps=100, out="/tmp/digits"))
    """
    display = Display() if display is None else display
    if resume is not None:
        run = resumed_run(Path(resume), steps, display)
    else:
        run = new_run(TrainOptions() if options is None else options, display, overwrite)
    try:
        show_header(run, display)
        if resume is not None:
            show_resume(run, display)
        with terminate_as_interrupt():
            try:
                result = train(run, display)
            except (Stopped, UserError):
                with suppress(UserError):
                    draw(run)
                raise
            summary = finish(run, result, display)
    finally:
        run.folder.lock.release()
    refuse_unlearned(run, summary["after"]["loss"])
    return summary


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """A termination signal ends a run the way Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
