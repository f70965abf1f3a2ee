"""`zokern compare`: plans at equal forward passes, baselines, tables, the figure, stopping and going on."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from zokern.app.compare import CompareOptions, child, run_comparison, runner
from zokern.app.compare.baselines import BASELINES
from zokern.app.compare.options import DEFAULT_RUNS
from zokern.app.compare.plan import plan
from zokern.app.tasks import UserError, load_task
from zokern.app.training import METHODS, Stopped
from zokern.app.tuning import TUNINGS

RUNS = "zero-shot,linear-probe,icl,mezo:full,mezo-svrg:full:interval=2,fo-sgd:full"


def digits(**more):
    values = {"runs": RUNS, "seeds": 2, "forwards": 48, "batch_size": 8, "train_size": 200, "test_size": 60}
    return CompareOptions(task="digits", **{**values, "evals": 2, "eval_size": 30, **more})


@pytest.fixture
def in_process(monkeypatch):
    """Runs cells in this process (a child costs seconds of imports); the list of those that ran."""
    ran = []

    def run(home, tick):
        ran.append(home.name)
        from zokern.app.training import Display

        tick()
        try:
            with open(home / runner.LOG, "w") as log:
                from rich.console import Console

                child.run_cell(home, Display(console=Console(file=log)))
        except UserError as error:
            (home / child.RESULT).write_text(json.dumps({"failed": str(error)}))
        return 0

    monkeypatch.setattr(runner, "_child", run)
    monkeypatch.setattr("zokern.app.plots.learning_curve", lambda *args, **kwargs: None)
    return ran


# ---- the plan


def test_all_runs_spend_the_same_forward_passes():
    cells = plan(digits(forwards=96), load_task("digits", train_size=200))
    spent = {}
    for cell in cells:
        if cell.method in METHODS:
            costs = [METHODS[cell.method].forwards(cell.options, s) for s in range(cell.options.steps)]
            spent[cell.label] = (cell.options.steps, sum(costs))
    # full batch 64: 16 forwards in a full step, 4 in the other of each interval of 2
    assert spent == {"mezo:full": (48, 96), "mezo-svrg:full:interval=2": (9, 96), "fo-sgd:full": (32, 96)}


def test_baselines_run_once_and_the_rest_once_a_seed():
    cells = plan(digits(seeds=3), load_task("digits", train_size=200))
    assert [cell.label for cell in cells].count("zero-shot") == 1
    assert [cell.seed for cell in cells if cell.label == "mezo:full"] == [0, 1, 2]
    assert len({cell.folder for cell in cells}) == len(cells)


def test_the_default_grid_is_what_it_says():
    labels = DEFAULT_RUNS.split(",")
    assert len(labels) == 12
    for label in labels:
        method, *tuning = label.split(":")
        assert method in BASELINES or (method in METHODS and tuning[0] in TUNINGS)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"runs": "mezzo:full"}, "unknown method 'mezzo'; known: zero-shot, icl, linear-probe, mezo"),
        ({"runs": "mezo:fill"}, "unknown tuning 'fill'; known: full, lora"),
        ({"runs": "zero-shot:full"}, "zero-shot has no tuning and no options"),
        ({"runs": "mezo:full,mezo:full"}, "names mezo:full twice"),
        ({"runs": " , "}, "--runs names nothing to run"),
        ({"runs": "mezo:full:rate=1"}, "'rate' is no option of a run"),
        ({"runs": "mezo:full:steps=1"}, "'steps' is no option of a run"),
        ({"runs": "mezo:full:lr=fast"}, "'fast' is no value of lr .float"),
        ({"runs": "mezo:full:lr=-1"}, "--lr must be positive, got -1.0"),
        ({"runs": "mezo:full:interval=3"}, "mezo does not read --interval"),
        ({"seeds": 0}, "--seeds must be positive, got 0"),
        ({"forwards": 1, "runs": "mezo:full"}, "--forwards 1 is less than one step of mezo:full .2 forward"),
        ({"forwards": 15, "runs": "mezo-svrg:full"}, "less than one step of mezo-svrg:full .16 forward"),
        ({"evals": -1}, "--evals must not be negative, got -1"),
        ({"batch_size": 500}, "--batch-size 500 is more than the 200"),
    ],
)
def test_what_cannot_be_compared_is_named_and_nothing_is_written(more, message, tmp_path, quiet):
    with pytest.raises(UserError, match=message):
        run_comparison(digits(**more), out=tmp_path / "out", display=quiet)
    assert not (tmp_path / "out").exists()


# ---- a whole comparison


def test_table_files_and_figure(tmp_path, quiet, in_process):
    out = tmp_path / "out"
    rows = run_comparison(digits(), out=out, display=quiet)
    assert len(rows) == 3 + 2 * 3 and len(in_process) == 9
    assert rows == [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    by_run = {row["run"]: row for row in rows}
    assert by_run["icl"]["failed"] == "In-context learning needs a language model scored by label words."
    assert by_run["mezo:full"]["forward_passes"] == 48
    assert by_run["fo-sgd:full"]["forward_passes"] == 48
    assert by_run["fo-sgd:full"]["steps"] == 16
    assert by_run["linear-probe"]["forward_passes"] == 200 / 8
    assert by_run["linear-probe"]["accuracy"] > 0.7
    assert by_run["linear-probe"]["trainable_parameters"] == 33 * 10
    assert by_run["mezo:full"]["trainable_parameters"] == 65 * 32 + 33 * 10
    assert [[x, n] for x, _, n in by_run["mezo:full"]["curve"]] == [[16, 30], [32, 30], [48, 60]]
    table = {line["run"]: line for line in csv.DictReader((out / "table.csv").open())}
    assert float(table["mezo:full"]["accuracy"]) == pytest.approx(
        sum(row["accuracy"] for row in rows if row["run"] == "mezo:full") / 2
    )
    markdown = (out / "table.md").read_text()
    assert "| mezo:full | " in markdown and " ± " in markdown
    assert "| icl | failed: In-context learning needs" in markdown
    assert "a first-order step counted as 3" in markdown
    assert (out / "learning_curves.png").stat().st_size > 20_000
    printed = " ".join(quiet.console.file.getvalue().split())
    for part in (
        "48 forward passes of 8 examples a run",
        "9/9 fo-sgd:full seed 1",
        "icl: 1 of 1 runs failed",
    ):
        assert part in printed
    assert not list(out.glob("*/run/weights")) and not list(out.glob("*/run/checkpoint.pt"))


def test_finished_runs_are_read_back_and_failed_ones_tried_again(tmp_path, quiet, in_process):
    first = run_comparison(digits(), out=tmp_path / "out", display=quiet)
    in_process.clear()
    second = run_comparison(digits(), out=tmp_path / "out", display=quiet)
    assert first == second
    assert in_process == ["icl-seed0"]
    in_process.clear()
    run_comparison(digits(runs="mezo:full,fo-adamw:full", seeds=1), out=tmp_path / "out", display=quiet)
    assert in_process == ["fo-adamw-full-seed0"]  # a grid may grow
    rows = run_comparison(resume=tmp_path / "out", display=quiet)
    assert [row["run"] for row in rows] == ["mezo:full", "fo-adamw:full"]


def test_runs_that_an_earlier_version_finished_are_read_back(tmp_path, quiet, in_process):
    """Its cells have the old names of two options."""
    options = digits(runs="mezo-svrg:full:snapshot=copy", seeds=1)
    first = run_comparison(options, out=tmp_path / "out", display=quiet)
    (path,) = (tmp_path / "out").glob("*/cell.json")
    cell = json.loads(path.read_text())
    assert cell["options"]["anchor"] == "copy"
    cell["options"]["snapshot"] = cell["options"].pop("anchor")
    cell["options"]["queries"] = cell["options"].pop("evaluation")
    del cell["check"]
    path.write_text(json.dumps(cell))
    in_process.clear()
    assert run_comparison(options, out=tmp_path / "out", display=quiet) == first
    assert not in_process


def test_damaged_files_of_a_comparison(tmp_path, quiet, in_process):
    """A result or a cell that was changed is made again, changed settings are refused."""
    options, out = digits(runs="mezo:full", seeds=2), tmp_path / "out"
    first = run_comparison(options, out=out, display=quiet)
    path = out / "mezo-full-seed1" / "result.json"
    path.write_text(path.read_text().replace('"accuracy": 0.', '"accuracy": 0.9', 1))
    in_process.clear()
    again = run_comparison(options, out=out, display=quiet)
    assert [(row["accuracy"], row["loss"]) for row in again] == [
        (row["accuracy"], row["loss"]) for row in first
    ]
    assert in_process == ["mezo-full-seed1"]
    path = out / "mezo-full-seed0" / "cell.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 4', 1))
    in_process.clear()
    again = run_comparison(options, out=out, display=quiet)
    assert [row["loss"] for row in again] == [row["loss"] for row in first]
    assert in_process == ["mezo-full-seed0"]
    assert "cell.json is damaged: its checksum" in " ".join(quiet.console.file.getvalue().split())
    path = out / "compare.json"
    for damaged in (path.read_text().replace('"forwards": 48', '"forwards": 47'), "[]", "{", ""):
        path.write_text(damaged)
        before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
        with pytest.raises(UserError, match=r"compare\.json cannot be read: "):
            run_comparison(resume=out, display=quiet)
        assert before == {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}


def test_another_comparison_is_not_mixed_in(tmp_path, quiet, in_process):
    options = digits(runs="zero-shot")
    run_comparison(options, out=tmp_path / "out", display=quiet)
    with pytest.raises(UserError, match=r"comparison with --forwards 48, not 60: .* --overwrite"):
        run_comparison(digits(runs="zero-shot", forwards=60), out=tmp_path / "out", display=quiet)
    run_comparison(digits(runs="zero-shot", forwards=60), out=tmp_path / "out", overwrite=True, display=quiet)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"files that are not a comparison's \(thesis.tex"):
        run_comparison(options, out=tmp_path / "mine", overwrite=True, display=quiet)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    with pytest.raises(UserError, match=r"no comparison to resume in .*nowhere"):
        run_comparison(resume=tmp_path / "nowhere", display=quiet)


def test_a_run_cut_off_goes_on_where_it_was(tmp_path, quiet, in_process, monkeypatch):
    """Interrupted in step 7 of the first seed: the finished comparison is that of one left alone."""
    options = digits(runs="mezo:full")
    whole = run_comparison(options, out=tmp_path / "whole", display=quiet)
    real = METHODS["mezo"]
    steps = []

    def step(optimizer, closures, progress):
        steps.append(progress.step)
        if len(steps) == 7:
            raise KeyboardInterrupt
        return real.step(optimizer, closures, progress)

    import dataclasses

    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "mezo", dataclasses.replace(real, step=step))
        patch.setattr(child, "Stopped", Stopped)
        with pytest.raises((Stopped, KeyboardInterrupt)):
            run_comparison(options, out=tmp_path / "cut", display=quiet)
    steps.clear()
    monkeypatch.setitem(
        METHODS, "mezo", dataclasses.replace(real, step=lambda *a: (steps.append(1), real.step(*a))[1])
    )
    cut = run_comparison(resume=tmp_path / "cut", display=quiet)
    assert len(steps) == 24 - 6 + 24
    for one, two in zip(whole, cut):
        assert one["curve"] == two["curve"] and one["loss"] == two["loss"]


# ---- real children


def test_killed_comparison_is_continued_by_the_same_command(tmp_path):
    """SIGKILL to the parent in the middle of a run: its child ends, and the command run again finishes."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "zokern", "compare", "--task", "digits", "--runs", "zero-shot,mezo:full"]
    command += ["--seeds", "1", "--forwards", "700", "--evals", "0", "--test-size", "40", "--out", str(out)]
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(sys.path))
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    log = out / "mezo-full-seed0" / "run" / "steps.jsonl"
    try:
        while parent.poll() is None and not (log.exists() and log.stat().st_size > 3000):
            time.sleep(0.05)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert not (out / "mezo-full-seed0" / "result.json").exists()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "2/2 mezo:full seed 0: accuracy" in again.stdout
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()[1:]]
    assert steps == list(range(1, 351))
    assert "Resuming after step" in (out / "mezo-full-seed0" / "log.txt").read_text()


def test_a_child_runs_this_zokern(tmp_path, quiet, monkeypatch):
    """Not one that lies in the working directory: a clone beside an installation has no compiled kernels."""
    other = tmp_path / "zokern"
    other.mkdir()
    (other / "__init__.py").write_text("raise ImportError('another zokern')")
    monkeypatch.chdir(tmp_path)
    (row,) = run_comparison(digits(runs="mezo:full", seeds=1), out=tmp_path / "out", display=quiet)
    assert row.get("failed") is None and row["forward_passes"] == 48


def test_a_child_that_dies_is_a_row_with_its_reason(tmp_path, quiet, monkeypatch):
    monkeypatch.setattr(runner.sys, "executable", "/bin/false")
    rows = run_comparison(digits(runs="zero-shot"), out=tmp_path / "out", display=quiet)
    assert rows[0]["failed"] == "exit code 1: no output"


@pytest.mark.parametrize(("code", "reason"), [(-9, "SIGKILL .out of memory"), (-11, "ended by SIGSEGV")])
def test_a_signal_is_named(code, reason, tmp_path):
    import re

    assert re.search(reason, runner._reason(code, tmp_path / "log"))


# ---- the command


def test_command_line(cli, in_process):
    arguments = ("compare", "--task", "digits", "--forwards", 20, "--seeds", 1, "--test-size", 30)
    result = cli(*arguments, "--runs", "zero-shot,mezo:full,icl", "--out", "out")
    assert result.exit_code == 0, result.output
    assert "icl: 1 of 1 runs failed" in result.stdout
    result = cli("compare", "--resume", "out", "--seeds", 2)
    assert result.exit_code == 2 and "drop --seeds" in result.stderr
    assert cli("compare", "--resume", "out").exit_code == 0
    result = cli(*arguments, "--runs", "icl", "--out", "none")
    assert result.exit_code == 2 and "Every run failed" in result.stderr
    for bad, part in (
        (("--runs", "sgd:full"), "unknown method 'sgd'"),
        (("--seeds", 0), "--seeds must be positive, got 0"),
        (("--task", "digitz"), "Did you mean digits?"),
    ):
        result = cli("compare", "--task", "digits", *bad)
        assert result.exit_code == 2 and part in result.stderr
        assert "Traceback" not in result.stderr


def test_help_teaches(cli):
    result = cli("compare", "--help")
    assert result.exit_code == 0
    for part in ("Examples", "--runs", "--forwards", "Budget", "--resume", "linear-probe"):
        assert part in result.stdout
