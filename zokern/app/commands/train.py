"""`zokern train`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from zokern.app.commands.common import folder, make_display, option, plain_errors, refuse_beside_resume
from zokern.app.commands.signature import from_options
from zokern.app.commands.texts import examples, train_texts
from zokern.app.options import RENAMED, TrainOptions

__all__ = ["HELP", "train"]

_OUT = "Output and resuming"

HELP = f"""Fine-tune a model on a task with forward passes only.

Without options: SmolLM2-135M and ten thousand movie-review sentences (about 100 MB, fetched once)
and a LoRA adapter, in about two minutes on two cores.

[bold]Examples[/bold]

[cyan]zokern train[/cyan]
[cyan]zokern train --task digits[/cyan]  (seconds, no download)
[cyan]zokern train --tuning full --dtype bf16[/cyan]  (all 134.5 M parameters)
{examples()}
[cyan]zokern train --model facebook/opt-125m --task sst2[/cyan]  (model and data from the hub)
[cyan]zokern train --model ./model --task ./data --prompt "{{text}}" --answer "It was"
    --label-words terrible,great[/cyan]
[cyan]zokern train --train-modules "*layers.29.*"[/cyan]  (one layer only)
[cyan]zokern train --resume runs/mr-smollm2-mezo-lora-seed0[/cyan]
"""


@plain_errors
@from_options(
    TrainOptions,
    train_texts,
    after={"overwrite": "out", "resume": "overwrite", "quiet": "checkpoint_every"},
    renamed=RENAMED,
)
def train(
    options: TrainOptions,
    overwrite: Annotated[bool, option(_OUT, "Replace the run that is in the folder.")] = False,
    resume: Annotated[
        str | None,
        option(
            _OUT,
            "Continue the run in this folder with its own options (only --steps may be given "
            "beside it). The result is the one an uninterrupted run would have had.",
            metavar="FOLDER",
        ),
    ] = None,
    quiet: Annotated[bool, option(_OUT, "Print the closing table only.", "--quiet", "-q")] = False,
) -> None:
    """Runs or resumes a training run."""
    from zokern.app.training import Stopped, run_training

    if resume is not None:
        refuse_beside_resume(options, "run", *["overwrite"] * overwrite, besides=("steps",))
    try:
        run_training(
            options,
            resume=folder("--resume", resume),
            steps=options.steps if resume is not None else None,
            overwrite=overwrite,
            display=make_display(quiet),
        )
    except Stopped as stopped:
        where = resume or stopped.folder
        print(
            f"zokern: stopped after step {stopped.step}; every step up to it, the last checkpoint "
            f"and the learning curve are in {where}.\n"
            f"Continue with: zokern train --resume {where}",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
