"""Every option of every command with hostile values: no traceback, and what is refused is named with its value.

Commands and options are found in the typer app itself: a new one is covered by being there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import shutil

import click
import pytest
import typer

from zokern.app import training
from zokern.app.cli import app
from zokern.app.compare import runner
from zokern.app.tasks import TASKS

from .conftest import WORDS

LONG = "x" * 5000
TEXTS = [
    "",
    " ",
    ",",
    "[bold]",
    "[/bold]",
    "[red]x[/green]",
    "a\0b",
    "\ud800",
    "a\nb",
    "\x1b[31m",
    "1e300",
    "-1",
    "nan",
    "inf",
    "0",
    "99999999999999999999999",
    "1" + "0" * 400,
    "meta",
    "{}",
    "{text}{",
    "$x",
    "..",
    "/",
    "~nobody-of-that-name",
    "/dev/null",
    "/dev/full",
    "/proc/self/mem",
    "FILE",
    "FOLDER",
    "UNREADABLE",
    "A[bold]FILE",
    "a=b:c,d",
    LONG,
]
NUMBERS = [
    "",
    "x",
    "-1",
    "0",
    "-0.0",
    "1.5",
    "1e300",
    "-1e300",
    "1e-300",
    "nan",
    "inf",
    "-inf",
    "True",
    "0x10",
    "1_0",
    "१",
    "9223372036854775808",
    "99999999999999999999999",
    "1" + "0" * 5000,
    "[bold]",
    "a\0b",
]


def commands() -> dict[str, click.Command]:
    return dict(GROUP.commands)


GROUP = typer.main.get_command(app)


def takes_a_number(parameter) -> bool:
    return parameter.metavar in ("INTEGER", "FLOAT")


def cases():
    for name, command in commands().items():
        for parameter in command.params:
            if parameter.name == "help" or getattr(parameter, "is_flag", False):
                continue
            yield pytest.param(name, parameter, id=f"{name}-{parameter.name}")


def places(tmp_path):
    """Files and folders that stand for words of the list."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("text\n")
    (tmp_path / "a[bold]file.csv").write_text("text,label\n" + "good,1\nbad,0\n" * 8)
    (tmp_path / "unreadable").mkdir()
    (tmp_path / "unreadable" / "config.json").write_text("{}")
    (tmp_path / "unreadable").chmod(0)
    return {
        "FILE": "file.txt",
        "FOLDER": "folder",
        "UNREADABLE": "unreadable",
        "A[bold]FILE": "a[bold]file.csv",
    }


def run_command(*arguments):
    """(exit code, what was printed, the exception where there is one) of a command line."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            GROUP.main(list(arguments), prog_name="zokern")
        except SystemExit as exit:
            return exit.code or 0, printed.getvalue(), None
        except Exception as error:
            return 1, printed.getvalue(), error
    return 0, printed.getvalue(), None


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOKERN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("zokern.app.plots.learning_curve", lambda *args, **kwargs: None)
    real = training.train

    def train(run, display):
        if run.options.steps > 5:  # as many as were asked for: stopped
            raise training.Stopped(0, run.folder.path)
        return real(run, display)

    monkeypatch.setattr(training, "train", train)
    result = {
        "accuracy": 0.5,
        "calibrated_accuracy": 0.5,
        "loss": 1.0,
        "examples": 5,
        "forward_passes": 4,
        "seconds": 1,
    }
    result |= {"peak_memory_bytes": 1, "trainable_parameters": 1, "steps": 1, "curve": [[4, 0.5, 5]]}
    monkeypatch.setattr(runner, "_run", lambda *arguments: result)  # without a child
    monkeypatch.setattr(runner, "draw_comparison", lambda rows, folder, *rest: folder / "curves.png")
    digits = TASKS["digits"](None)
    monkeypatch.setitem(TASKS, "digits", lambda progress: dataclasses.replace(digits))

    return run_command


BASE = {
    "train": {
        "--task": "digits",
        "--steps": "1",
        "--test-size": "5",
        "--batch-size": "4",
        "--train-size": "20",
    },
    "compare": {
        "--task": "digits",
        "--runs": "mezo:full",
        "--forwards": "4",
        "--seeds": "1",
        "--test-size": "5",
    },
    "info": {},
}


def trouble(invoke, arguments, parameter, value):
    """What is wrong with how a command ends that is given a hostile value; "" where nothing is."""
    code, said, error = invoke(*arguments, f"{max(parameter.opts, key=len)}={value}")
    plain = re.sub(r"[\s│╭╮╰╯─]+", "", said)
    if error is not None:
        return f"{value[:60]!r}: {error!r}"[:400]
    if "Traceback" in said:
        return f"{value[:60]!r}: a traceback is printed"
    if code in (0, 130):
        return ""
    if not any(option in plain for option in parameter.opts):
        return f"{value[:60]!r}: the option is not named in: {said.strip()[-300:]}"
    if len(value) < 1000 and not any(form in plain for form in forms(value)):  # of longer ones a part at most
        return f"{value[:60]!r}: the value is not named in: {said.strip()[-300:]}"
    return ""


@pytest.mark.parametrize(("name", "parameter"), list(cases()))
def test_hostile_values(name, parameter, invoke, tmp_path):
    there = places(tmp_path)
    base = {option: given for option, given in BASE[name].items() if option not in parameter.opts}
    if "--resume" in parameter.opts:
        base = {}
    words = [word for pair in base.items() for word in pair]
    wrong = []
    for value in NUMBERS if takes_a_number(parameter) else TEXTS:
        wrong.append(trouble(invoke, [name, *words], parameter, there.get(value, value)))
        for left in ("out", "runs"):
            shutil.rmtree(tmp_path / left, ignore_errors=True)
    assert not any(wrong), "\n".join(filter(None, wrong))


TUNED = {
    "last_layers": "last-layers",
    "bottleneck": "tt",
    "rank": "tt",
    "prefix_tokens": "prefix",
    "train_modules": None,
}
READ = ["1", "3000", "100000000", "9223372036854775807", "3.4e38", "1e-300"]
WRITTEN = [
    "[/bold]",
    "{}",
    "{text}{",
    "[red]x[/green]",
    "a\nb",
    "\x1b[31m",
    ",",
    "$x",
    "FILE",
    "FOLDER",
    LONG,
]


def of_text():
    for parameter in commands()["train"].params:
        panel = getattr(parameter, "rich_help_panel", None)
        chosen = panel in ("Text and data", "Which parameters") or parameter.name in (
            "model",
            "eval_batch_size",
        )
        if chosen and not getattr(parameter, "is_flag", False):
            yield pytest.param(parameter, id=parameter.name)


@pytest.mark.parametrize("parameter", list(of_text()))
def test_hostile_values_where_there_is_text(parameter, invoke, tmp_path, model_folder, data_folder):
    """The same of options that digits do not read, with values that are read: huge numbers, braces, markup."""
    there = places(tmp_path)
    base = {"--task": data_folder, "--model": model_folder("gpt2"), "--label-words": ",".join(WORDS)}
    base |= {"--answer": "It was", "--steps": 1, "--test-size": 2, "--batch-size": 1, "--tuning": "lora"}
    base["--tuning"] = TUNED.get(parameter.name, "lora")
    words = [
        word
        for option, given in base.items()
        if option not in parameter.opts and given is not None
        for word in (option, str(given))
    ]
    wrong = []
    for value in READ if takes_a_number(parameter) else WRITTEN:
        wrong.append(trouble(invoke, ["train", *words], parameter, there.get(value, value)))
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    assert not any(wrong), "\n".join(filter(None, wrong))


def forms(value):
    """How a value may be written in a message: as it is, as Python writes it, or as the number it is."""
    found = [value, repr(value)[1:-1], ascii(value)[1:-1], value.partition(",")[0] or value]
    for kind in (int, float):
        with contextlib.suppress(ValueError, OverflowError):
            found += [repr(kind(value)), f"{kind(value):g}"]
    return [re.sub(r"\s+", "", form)[:40] for form in found]
