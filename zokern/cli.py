"""The command line: `zokern train`, `zokern info`.

A new command is a function with `@app.command()`; `plain_errors` gives it the house's manners: what
the user can put right is one sentence on stderr and exit code 2, Ctrl-C is exit code 130.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from zokern.tasks import HUB_TASKS, TASKS, UserError, explain_os_error
from zokern.training.methods import METHODS
from zokern.tuning import TUNINGS

__all__ = ["app", "plain_errors"]

app = typer.Typer(
    name="zokern",
    help="Zeroth-order training: fine-tune models with forward passes only.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _commands() -> None:
    """Keeps `zokern train` a subcommand however many commands there are."""


def plain_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Ends `command` with a sentence and an exit code instead of a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            print(f"zokern: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except OSError as error:
            print(f"zokern: {explain_os_error(error, 'using a file')}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("zokern: interrupted.", file=sys.stderr)
            raise typer.Exit(130) from None

    return wrapped


def _words(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(w.strip() for w in text.split(",") if w.strip())


_WHAT, _TEXT, _TUNE, _OPT, _RUN, _OUT = (
    "What to train",
    "Text and data",
    "Which parameters",
    "Optimizer",
    "Run",
    "Output and resuming",
)


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


_TRAIN_HELP = """Fine-tune a model on a task with forward passes only.

Without options: SmolLM2-135M and ten thousand movie-review sentences (about 100 MB, fetched once)
and a LoRA adapter, in about two minutes on two cores.

[bold]Examples[/bold]

[cyan]zokern train[/cyan]
[cyan]zokern train --task digits[/cyan]  (seconds, no download)
[cyan]zokern train --tuning full --dtype bf16[/cyan]  (all 134.5 M parameters)
[cyan]zokern train --model facebook/opt-125m --task sst2[/cyan]  (model and data from the hub)
[cyan]zokern train --model ./model --task ./data --prompt "{text}" --answer "It was"
    --label-words terrible,great[/cyan]
[cyan]zokern train --train-modules "*layers.29.*"[/cyan]  (one layer only)
[cyan]zokern train --resume runs/mr-smollm2-mezo-lora-seed0[/cyan]
"""


@app.command(help=_TRAIN_HELP)
@plain_errors
def train(
    task: Annotated[
        str,
        _option(
            _WHAT,
            f"Task: {', '.join(TASKS)}; from the hub: {', '.join(HUB_TASKS)}; or a data-set hub id "
            "(owner/name), a local folder or file.",
        ),
    ] = "mr",
    model: Annotated[
        str | None,
        _option(
            _WHAT,
            "Model: smollm2, minilm, mlp, a hub name or a local folder.",
            show_default="the task's own",
        ),
    ] = None,
    method: Annotated[
        str,
        _option(_WHAT, "; ".join(f"[bold]{n}[/bold]: {m.summary}" for n, m in METHODS.items()) + "."),
    ] = "mezo",
    scoring: Annotated[
        str,
        _option(
            _WHAT,
            "label-words: prompt a language model and compare its words for the classes; head: a "
            "classification head, no prompt; auto: label words where the model can.",
        ),
    ] = "auto",
    prompt: Annotated[
        str | None,
        _option(_TEXT, "Question put to the model, with {column} places.", show_default="task's"),
    ] = None,
    answer: Annotated[
        str | None,
        _option(_TEXT, "What precedes the label word.", show_default="task's"),
    ] = None,
    label_words: Annotated[
        str | None,
        _option(
            _TEXT,
            "One word per class, in class order, with commas; each a single token of the model.",
            show_default="task's",
        ),
    ] = None,
    chat: Annotated[
        bool | None,
        _option(
            _TEXT,
            "Wrap the prompt in the model's chat template.",
            "--chat/--no-chat",
            show_default="if it has one",
        ),
    ] = None,
    text_columns: Annotated[
        str | None,
        _option(_TEXT, "Text columns of hub or local data, with commas.", show_default="all text"),
    ] = None,
    label_column: Annotated[
        str | None, _option(_TEXT, "Label column of hub or local data.", show_default="label")
    ] = None,
    task_config: Annotated[
        str | None, _option(_TEXT, "The hub's configuration name of the data set.")
    ] = None,
    max_words: Annotated[
        int | None,
        _option(_TEXT, "Keep so many words of each text.", show_default="task's (mr: 40)"),
    ] = None,
    max_length: Annotated[int, _option(_TEXT, "Longest prompt in tokens; texts are shortened to fit.")] = 512,
    train_size: Annotated[
        int | None, _option(_TEXT, "Train on the first so many examples.", show_default="all")
    ] = None,
    test_size: Annotated[
        int, _option(_TEXT, "Test on so many held-out examples, the same for every seed.")
    ] = 500,
    tuning: Annotated[
        str | None,
        _option(
            _TUNE,
            f"One of {', '.join(TUNINGS)}.",
            "--tuning",
            "--tune",
            show_default="lora; adazeta: tt; mlp: full; minilm: head",
        ),
    ] = None,
    train_modules: Annotated[
        list[str] | None,
        _option(
            _TUNE,
            'Train the parameters or modules matching this pattern, as "*.layers.29.*"; repeatable.',
        ),
    ] = None,
    last_layers: Annotated[int, _option(_TUNE, "Blocks trained by --tuning last-layers.")] = 2,
    lora_rank: Annotated[int, _option(_TUNE, "LoRA rank r.")] = 4,
    lora_alpha: Annotated[float, _option(_TUNE, "LoRA is scaled by alpha / r.")] = 32.0,
    lora_targets: Annotated[
        str | None,
        _option(_TUNE, "Linear layers that get LoRA, with commas.", show_default="query and value"),
    ] = None,
    bottleneck: Annotated[int, _option(_TUNE, "Features inside a TT adapter.")] = 64,
    rank: Annotated[int, _option(_TUNE, "TT-rank of a TT adapter's projections.")] = 5,
    lr: Annotated[
        float | None,
        _option(
            _OPT,
            "Learning rate. Zeroth-order rates are far below first-order ones: about 1e-6 for full "
            "tuning, 1e-4 to 1e-3 for adapters.",
            show_default="by tuning",
        ),
    ] = None,
    eps: Annotated[
        float | None,
        _option(
            _OPT,
            "Perturbation scale of the finite difference: 1e-3 for full tuning, 1e-2 for LoRA.",
            show_default="by tuning",
        ),
    ] = None,
    num_queries: Annotated[
        int | None,
        _option(
            _OPT,
            "Directions averaged per step: less noise, more forwards.",
            show_default="1; adazeta: by epoch",
        ),
    ] = None,
    query_schedule: Annotated[
        bool,
        _option(
            _OPT,
            "Directions by epoch e (AdaZeta's schedule, for any method): alpha e^beta, rounded down, "
            "at least 1 and at most the maximum.",
            "--query-schedule",
        ),
    ] = False,
    query_alpha: Annotated[float, _option(_OPT, "Factor of the schedule.")] = 0.85,
    query_beta: Annotated[float, _option(_OPT, "Exponent of the schedule.")] = 0.45,
    query_max: Annotated[int, _option(_OPT, "Most directions of the schedule.")] = 20,
    queries: Annotated[
        str,
        _option(
            _OPT,
            "adazeta: evaluate a step's perturbed copies in a loop, or in parallel, in one forward over "
            "the batch repeated for each (adapters and heads; takes their activations' memory).",
        ),
    ] = "loop",
    max_parallel: Annotated[
        int | None, _option(_OPT, "Most copies in one forward.", show_default="all")
    ] = None,
    one_sided: Annotated[
        bool, _option(_OPT, "One shared base loss instead of pairs (queries + 1 forwards).")
    ] = False,
    distribution: Annotated[str, _option(_OPT, "Of the directions: gaussian or rademacher.")] = "gaussian",
    weight_decay: Annotated[float, _option(_OPT, "Decoupled weight decay.")] = 0.0,
    momentum: Annotated[float, _option(_OPT, "Heavy-ball momentum, below 1.")] = 0.0,
    lr_schedule: Annotated[
        str | None,
        _option(_OPT, "constant, linear (to 0) or cosine (to 0).", show_default="task's"),
    ] = None,
    warmup_steps: Annotated[int, _option(_OPT, "Steps of linear warm-up.")] = 0,
    restore: Annotated[
        str,
        _option(
            _OPT,
            "How weights come back after a perturbation: inplace (no memory), exact (never moved), "
            "snapshot (a copy), auto (inplace for fp32, else snapshot or exact).",
        ),
    ] = "auto",
    lazy: Annotated[
        bool,
        _option(_OPT, "Fuse restore and update into the next step's first pass.", "--lazy/--no-lazy"),
    ] = True,
    rounding: Annotated[
        str, _option(_OPT, "Of updates to 16-bit weights: stochastic or nearest.")
    ] = "stochastic",
    steps: Annotated[int | None, _option(_RUN, "Training steps.", show_default="task's (mr: 160)")] = None,
    batch_size: Annotated[
        int | None, _option(_RUN, "Examples per step.", show_default="task's (mr: 8)")
    ] = None,
    dtype: Annotated[str, _option(_RUN, "fp32, bf16 or fp16, of the model's weights.")] = "fp32",
    device: Annotated[str, _option(_RUN, "cpu, cuda, cuda:1, ..., or auto.")] = "auto",
    threads: Annotated[int | None, _option(_RUN, "CPU threads.", show_default="PyTorch's choice")] = None,
    seed: Annotated[int, _option(_RUN, "Of directions, batches and fresh weights.")] = 0,
    eval_every: Annotated[int, _option(_RUN, "Test every so many steps too; 0: only before and after.")] = 0,
    eval_batch_size: Annotated[int, _option(_RUN, "Examples per test forward.")] = 32,
    out: Annotated[
        str | None,
        _option(_OUT, "Output folder.", show_default="runs/TASK-MODEL-METHOD-TUNING-seedN"),
    ] = None,
    overwrite: Annotated[bool, _option(_OUT, "Replace the run that is in the folder.")] = False,
    resume: Annotated[
        Path | None,
        _option(
            _OUT,
            "Continue the run in this folder with its own options (only --steps may be given "
            "beside it). The result is the one an uninterrupted run would have had.",
            metavar="FOLDER",
        ),
    ] = None,
    checkpoint_every: Annotated[
        int,
        _option(
            _OUT,
            "Steps between checkpoints. Steps since the last one are never lost: they are repeated "
            "from the log without forwards.",
        ),
    ] = 50,
    quiet: Annotated[bool, _option(_OUT, "Print the closing table only.", "--quiet", "-q")] = False,
) -> None:
    from zokern.training import Display, Stopped, TrainOptions, run_training

    given = dict(locals())
    for name in ("resume", "overwrite", "quiet", "Display", "Stopped", "TrainOptions"):
        given.pop(name)
    given.pop("run_training")
    given["label_words"] = _words(label_words)
    given["text_columns"] = _words(text_columns) or ()
    given["lora_targets"] = _words(lora_targets) or ()
    given["train_modules"] = tuple(train_modules or ())
    options = TrainOptions(**given)
    if resume is not None:
        _only_steps(options, out, overwrite)
    try:
        run_training(
            options,
            resume=resume,
            steps=steps if resume is not None else None,
            overwrite=overwrite,
            display=_display(Display, quiet),
        )
    except Stopped as stopped:
        folder = resume or stopped.folder
        print(
            f"zokern: stopped after step {stopped.step}; every step up to it, the last checkpoint "
            f"and the learning curve are in {folder}.\n"
            f"Continue with: zokern train --resume {folder}",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None


def _only_steps(options: Any, out: str | None, overwrite: bool) -> None:
    """Raises `UserError` when something is asked for that a resumed run would ignore."""
    from zokern.training import TrainOptions

    plain = TrainOptions().as_dict()
    asked = [
        name
        for name, value in options.as_dict().items()
        if value != plain[name] and name not in ("steps", "out")
    ]
    asked += ["out"] if out is not None else []
    asked += ["overwrite"] if overwrite else []
    if asked:
        raise UserError(f"--resume takes all options from the run; drop --{asked[0].replace('_', '-')}.")


def _display(display: Any, quiet: bool) -> Any:
    try:
        return display(quiet)
    except ImportError:
        raise UserError("zokern train needs rich: pip install 'zokern[train]'.") from None


@app.command()
@plain_errors
def info() -> None:
    """Show the backends: which ops each has, on what, and why another is not available."""
    from zokern.__main__ import print_status

    print_status()
