"""`zokern compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from zokern.commands.common import make_display, option, plain_errors, words
from zokern.compare.plan import DEFAULT_RUNS
from zokern.tasks import TASKS, UserError

__all__ = ["HELP", "compare"]

_WHAT, _COST, _TEST, _TEXT, _RUN, _OUT = (
    "What to compare",
    "Budget and data",
    "Tests",
    "Text",
    "Machine",
    "Output and resuming",
)
_BASELINES = "zero-shot, icl (in-context learning), linear-probe"
HELP = """Compare methods on one model and task, at equal numbers of forward passes.

Each entry of --runs is METHOD:TUNING, trained once a seed until its forward passes are used up; a step of
first order counts as three (one forward, one backward). Baselines that train nothing are named alone and
run once. One table (mean ± standard deviation over seeds) is printed and saved, with all learning curves
in one figure.

[bold]Examples[/bold]

[cyan]zokern compare[/cyan]  (twelve methods on movie reviews, about an hour on two cores)
[cyan]zokern compare --task digits --runs mezo:full,zo-adam:full,fo-sgd:full --forwards 2000
    --batch-size 64[/cyan]  (a minute)
[cyan]zokern compare --runs "zero-shot,mezo:lora,mezo:prefix" --seeds 1 --forwards 100[/cyan]
[cyan]zokern compare --runs "mezo:lora:lr=4e-4,mezo:lora:lr=8e-4,mezo-svrg:lora:interval=10"[/cyan]
[cyan]zokern compare --resume runs/compare-mr[/cyan]  (or the same command again)

Finished runs are read back, a run that was cut off goes on where it was, and one that fails is a row
with its reason. Methods and tunings are those of [cyan]zokern train --help[/cyan].
"""


@plain_errors
def compare(
    task: Annotated[
        str, option(_WHAT, f"{', '.join(TASKS)}, or what else zokern train --task takes.")
    ] = "mr",
    model: Annotated[
        str | None,
        option(_WHAT, "smollm2, minilm, mlp, a hub name or a folder.", show_default="the task's own"),
    ] = None,
    runs: Annotated[
        str,
        option(
            _WHAT,
            f"With commas: METHOD:TUNING, and :OPTION=VALUE for each option of its own; or {_BASELINES}.",
        ),
    ] = DEFAULT_RUNS,
    seeds: Annotated[int, option(_WHAT, "Repeat each trained run with seeds 0, 1, ...")] = 3,
    forwards: Annotated[int, option(_COST, "Forward passes of each run.")] = 240,
    batch_size: Annotated[int, option(_COST, "Examples of a forward pass.")] = 8,
    lr_schedule: Annotated[str, option(_COST, "constant, linear (to 0) or cosine (to 0).")] = "linear",
    train_size: Annotated[int, option(_COST, "Use the first so many training examples.")] = 1000,
    shots: Annotated[int, option(_COST, "icl: solved examples in the prompt.")] = 8,
    test_size: Annotated[int, option(_TEST, "Examples of the closing test.")] = 500,
    evals: Annotated[int, option(_TEST, "Tests on the way, for the curves.")] = 3,
    eval_size: Annotated[int, option(_TEST, "Examples of those, the first of the test set.")] = 160,
    scoring: Annotated[str, option(_TEXT, "label-words, head, or auto.")] = "auto",
    prompt: Annotated[
        str | None, option(_TEXT, "Question, with {column} places.", show_default="task's")
    ] = None,
    answer: Annotated[
        str | None, option(_TEXT, "What precedes the label word.", show_default="task's")
    ] = None,
    label_words: Annotated[
        str | None, option(_TEXT, "One word per class, with commas.", show_default="task's")
    ] = None,
    dtype: Annotated[str, option(_RUN, "fp32, bf16 or fp16, of the model's weights.")] = "fp32",
    device: Annotated[str, option(_RUN, "cpu, cuda, cuda:1, ..., or auto.")] = "auto",
    threads: Annotated[int | None, option(_RUN, "CPU threads.", show_default="PyTorch's choice")] = None,
    out: Annotated[
        Path | None,
        option(
            _OUT, "Folder; one that holds the same comparison is continued.", show_default="runs/compare-TASK"
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        option(_OUT, "Continue the comparison in this folder with its own options.", metavar="FOLDER"),
    ] = None,
    overwrite: Annotated[bool, option(_OUT, "Replace the comparison in the folder.", "--overwrite")] = False,
    keep_weights: Annotated[
        bool, option(_OUT, "Keep each run's weights and last checkpoint.", "--keep-weights")
    ] = False,
    quiet: Annotated[bool, option(_OUT, "Print the table only.", "--quiet", "-q")] = False,
) -> None:
    given = dict(locals())
    for name in ("out", "resume", "overwrite", "quiet"):
        given.pop(name)
    display = make_display(quiet)
    from zokern.compare import CompareOptions, run_comparison
    from zokern.training import Stopped

    given["label_words"] = words(label_words)
    options = CompareOptions(**given)
    if resume is not None:
        changed = [name for name, value in vars(CompareOptions()).items() if given[name] != value]
        changed += ["out"] if out is not None else []
        changed += ["overwrite"] if overwrite else []
        if changed:
            flag = changed[0].replace("_", "-")
            raise UserError(f"--resume takes all options from the comparison; drop --{flag}.")
    try:
        rows = run_comparison(options, out=out, resume=resume, overwrite=overwrite, display=display)
    except Stopped as stopped:
        print(
            f"zokern: stopped after {stopped.step} runs; they and the one under way are in "
            f"{stopped.folder}.\nContinue with: zokern compare --resume {stopped.folder}",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    if all("failed" in row for row in rows):
        raise UserError("Every run failed; the reasons are above and in runs.jsonl.")
