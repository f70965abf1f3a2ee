"""`zokern compare`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from zokern.app.commands.common import folder, make_display, option, plain_errors, refuse_beside_resume
from zokern.app.commands.signature import from_options
from zokern.app.compare.options import CompareOptions
from zokern.app.tasks import TASKS, UserError

__all__ = ["HELP", "compare"]

_OUT = "Output and resuming"
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
@from_options(
    CompareOptions,
    lambda name: {"tasks": ", ".join(TASKS)},
    after={"out": "threads", "resume": "out", "overwrite": "resume", "quiet": "keep_weights"},
)
def compare(
    options: CompareOptions,
    out: Annotated[
        str | None,
        option(
            _OUT, "Folder; one that holds the same comparison is continued.", show_default="runs/compare-TASK"
        ),
    ] = None,
    resume: Annotated[
        str | None,
        option(_OUT, "Continue the comparison in this folder with its own options.", metavar="FOLDER"),
    ] = None,
    overwrite: Annotated[bool, option(_OUT, "Replace the comparison in the folder.", "--overwrite")] = False,
    quiet: Annotated[bool, option(_OUT, "Print the table only.", "--quiet", "-q")] = False,
) -> None:
    """Runs or continues a comparison."""
    display = make_display(quiet)
    from zokern.app.compare import run_comparison
    from zokern.app.training import Stopped

    if resume is not None:
        given = ["out"] * (out is not None) + ["overwrite"] * overwrite
        refuse_beside_resume(options, "comparison", *given)
    try:
        rows = run_comparison(
            options,
            out=folder("--out", out),
            resume=folder("--resume", resume),
            overwrite=overwrite,
            display=display,
        )
    except Stopped as stopped:
        print(
            f"zokern: stopped after {stopped.step} runs; they and the one under way are in "
            f"{stopped.folder}.\nContinue with: zokern compare --resume {stopped.folder}",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    if all("failed" in row for row in rows):
        raise UserError("Every run failed; the reasons are above and in runs.jsonl.")
