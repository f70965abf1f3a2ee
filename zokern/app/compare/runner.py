"""Runs a comparison: one child process at a time, live progress, what is finished read back."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zokern.app.compare.baselines import BASELINES
from zokern.app.compare.child import CELL, RESULT, TRAIN
from zokern.app.compare.figure import draw_comparison
from zokern.app.compare.grid import Grid
from zokern.app.compare.options import CompareOptions
from zokern.app.compare.plan import Cell, place, plan
from zokern.app.compare.table import show_table, write_tables
from zokern.app.fields import about
from zokern.app.options import renamed
from zokern.app.tasks import Task, UserError, explain_os_error, load_task
from zokern.app.training import terminate_as_interrupt
from zokern.app.training.display import Display
from zokern.app.training.folder import Folder
from zokern.app.training.lock import LOCK, FolderLock
from zokern.app.training.loop import Stopped
from zokern.app.training.report import data_facts

__all__ = ["run_comparison"]

SETTINGS = "compare.json"
LOG = "log.txt"
_POLL_SECONDS = 0.25


def run_comparison(
    options: CompareOptions | None = None,
    *,
    out: Path | None = None,
    resume: Path | None = None,
    overwrite: bool = False,
    display: Display | None = None,
) -> list[dict[str, Any]]:
    """Runs what is not finished, then writes and prints the table.

    Args:
        options: of the comparison.
        out: its folder; one that holds the same comparison is continued.
        resume: continue the comparison in this folder with its own options.
        overwrite: replace the comparison that is in the folder.
        display: where to print.

    Returns:
        One dict a run, failed ones with their reason, as in runs.jsonl.

    Raises:
        UserError: anything the user can put right.
        Stopped: Ctrl-C or a termination signal.

    Example:
        >>> options = CompareOptions(task="digits", runs="mezo:full,fo-sgd:full", seeds=2, forwards=200)
        >>> rows = run_comparison(options, out=Path("/tmp/digits"))
    """
    display = Display() if display is None else display
    if resume is not None:
        with about("--resume", resume):
            folder, options = resume, _saved(resume)
    else:
        options = CompareOptions() if options is None else options
        folder = place(options) if out is None else out
    options.check()
    lock = FolderLock(folder)
    with about("--resume" if resume is not None else "--out", folder):
        lock.refuse_if_taken()
    task = _task(options, display)
    cells = plan(options, task)
    with about("--resume" if resume is not None else "--out", folder):
        _claim(folder, options, overwrite, lock)
    try:
        return _run_all(cells, task, options, folder, display)
    finally:
        lock.release()


def _run_all(
    cells: list[Cell], task: Task, options: CompareOptions, folder: Path, display: Display
) -> list[dict[str, Any]]:
    """Runs the cells that are not finished, and makes the table."""
    _show_plan(cells, task, options, folder, display)
    results: dict[str, dict[str, Any]] = {}
    try:
        with terminate_as_interrupt(), Grid(cells, display) as grid:
            for cell in cells:
                results[cell.folder] = _run(cell, folder, options, grid)
                grid.finished(cell, results[cell.folder])
    except KeyboardInterrupt:
        raise Stopped(len(results), folder) from None
    rows = [_row(cell, results[cell.folder]) for cell in cells]
    written = write_tables(folder, rows, task, options)
    written.append(draw_comparison(rows, folder, task, options))
    show_table(rows, task, options, display)
    display.say(f"Written to {folder}: {', '.join(path.name for path in written)}, and each run's folder")
    return rows


def _task(options: CompareOptions, display: Display) -> Task:
    with about("--task", options.task), display.bytes_bar(f"fetching data for {options.task}") as progress:
        return load_task(
            options.task,
            prompt=options.prompt,
            answer=options.answer,
            label_words=options.label_words,
            text_columns=options.text_columns,
            label_column=options.label_column,
            config=options.task_config,
            encoding=options.encoding,
            train_size=options.train_size,
            test_size=options.test_size,
            progress=progress,
            notify=display.say,
        )


def _saved(folder: Path) -> CompareOptions:
    try:
        values = Folder(folder).read_sealed(SETTINGS)
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return CompareOptions(**values)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"There is no comparison to resume in {folder}: no {SETTINGS} there.") from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / SETTINGS} cannot be read: {error}.") from None


def _claim(folder: Path, options: CompareOptions, overwrite: bool, lock: FolderLock) -> None:
    """Makes the folder this comparison's, new or continued, and takes its lock."""
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out {folder} is a file, not a folder.")
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        found = sorted(names - {LOCK})
        if found and SETTINGS not in found:
            raise UserError(
                f"{folder} holds files that are not a comparison's ({found[0]}, ...); choose another "
                "folder with --out."
            )
        if found and not overwrite:
            old = _saved(folder).settings()
            for name, value in options.settings().items():
                if old[name] != value:
                    raise UserError(
                        f"{folder} holds a comparison with --{name.replace('_', '-')} {old[name]}, not "
                        f"{value}: choose another folder with --out, or replace it with --overwrite."
                    )
        folder.mkdir(parents=True, exist_ok=True)
        lock.take()
        with lock.held_on_error():
            for name in sorted(found, key=SETTINGS.__eq__) if overwrite else ():  # the settings last
                path = folder / name
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            Folder(folder).write_json(SETTINGS, dataclasses.asdict(options), sealed=True)
    except OSError as error:
        raise explain_os_error(error, f"preparing {folder}") from None


def _show_plan(
    cells: list[Cell], task: Task, options: CompareOptions, folder: Path, display: Display
) -> None:
    labels = list(dict.fromkeys(cell.label for cell in cells))
    display.facts(
        [
            ("task", f"{task.name}: {task.source}"),
            ("", f"{task.train_length:,} to train on, {len(task.test_labels):,} to test"),
            *data_facts(task),
            ("model", f"{cells[0].options.model}, {options.dtype}, {cells[0].options.device}"),
            ("budget", f"{options.forwards} forward passes of {options.batch_size} examples a run"),
            ("runs", f"{len(cells)}: {', '.join(labels)}; trained ones with {options.seeds} seed(s)"),
            ("folder", str(folder)),
        ]
    )


def _run(cell: Cell, folder: Path, options: CompareOptions, grid: Grid) -> dict[str, Any]:
    """The result of a cell: read back, or run now."""
    home = folder / cell.folder
    wanted = {
        "label": cell.label,
        "method": cell.method,
        "shots": options.shots,
        "keep_weights": options.keep_weights,
        "options": cell.options.as_dict(),
    }
    done = _finished(home, wanted, grid.display.warn)
    if done is not None:
        return done
    try:
        home.mkdir(exist_ok=True)
        Folder(home).write_json(CELL, wanted, sealed=True)
        code = _child(home, lambda: grid.update(cell, home))
    except OSError as error:
        raise explain_os_error(error, f"running {home}") from None
    result = _result(home)
    if result is None:
        result = {"failed": _reason(code, home / LOG)}
    return result


def _finished(home: Path, wanted: dict[str, Any], warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The result that is there, if it is this cell's; a failed run is tried again."""
    try:
        cell = Folder(home).read_sealed(CELL)
        if not isinstance(cell.get("options"), dict):
            raise ValueError("there are no options in it")
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError):
            warn(f"{home / CELL} is damaged: {error}. Its run is made again.")
        shutil.rmtree(home, ignore_errors=True)
        return None
    if _same(cell) != _same(json.loads(json.dumps(wanted))):
        shutil.rmtree(home, ignore_errors=True)  # of another version's defaults
        return None
    result = _result(home)
    if result is not None and "failed" in result:
        (home / RESULT).unlink()
        shutil.rmtree(home / TRAIN, ignore_errors=True)
        return None
    return result


def _same(cell: dict[str, Any]) -> dict[str, Any]:
    """What must agree for the result of one cell to be that of another; by the options' names of today.
    An option that is None is as good as one that an earlier version did not have."""
    options = dict(renamed(name, value) for name, value in cell["options"].items() if value is not None)
    return {**cell, "options": options, "keep_weights": None}


def _result(home: Path) -> dict[str, Any] | None:
    try:
        return Folder(home).read_sealed(RESULT)
    except (OSError, ValueError):
        return None


def _child(home: Path, tick: Callable[[], None]) -> int:
    """Runs a cell in a session of its own, so that Ctrl-C reaches it once, through here."""
    # -c looks in the working directory first, where an uncompiled copy of zokern may lie
    program = (
        "import sys; sys.path[:] = filter(None, sys.path)\n"
        "from zokern.app.compare.child import main; sys.exit(main(sys.argv[1]))"
    )
    command = [sys.executable, "-c", program, str(home)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with (
        open(home / LOG, "ab") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        ) as child,
    ):
        try:
            while child.poll() is None:
                tick()
                time.sleep(_POLL_SECONDS)
        except BaseException:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                child.kill()
            raise
        return child.returncode


def _reason(code: int, log: Path) -> str:
    """Why a child left no result."""
    if code < 0:
        name = signal.Signals(-code).name
        memory = " (out of memory, perhaps)" if name == "SIGKILL" else ""
        return f"ended by {name}{memory}"
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return f"exit code {code}: {lines[-1].strip()[:200] if lines else 'no output'}"


def _row(cell: Cell, result: dict[str, Any]) -> dict[str, Any]:
    trained = cell.method not in BASELINES
    return {
        "run": cell.label,
        "method": cell.method,
        "tuning": cell.options.tuning if trained else None,
        "seed": cell.seed,
        "lr": cell.options.lr if trained else None,
        "eps": cell.options.eps if trained else None,
        "folder": cell.folder,
        **result,
    }
