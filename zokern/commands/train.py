"""`zokern train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from zokern.commands.common import make_display, option, plain_errors, words
from zokern.tasks import HUB_TASKS, TASKS, UserError
from zokern.training.methods import METHODS
from zokern.tuning import TUNINGS

__all__ = ["HELP", "train"]

_WHAT, _TEXT, _TUNE, _OPT, _QUERY, _SPECIAL, _RUN, _OUT = (
    "What to train",
    "Text and data",
    "Which parameters",
    "Optimizer",
    "Queries: directions a step",
    "Options of some methods",
    "Run",
    "Output and resuming",
)

HELP = """Fine-tune a model on a task with forward passes only.

Without options: SmolLM2-135M and ten thousand movie-review sentences (about 100 MB, fetched once)
and a LoRA adapter, in about two minutes on two cores.

[bold]Examples[/bold]

[cyan]zokern train[/cyan]
[cyan]zokern train --task digits[/cyan]  (seconds, no download)
[cyan]zokern train --tuning full --dtype bf16[/cyan]  (all 134.5 M parameters)
[cyan]zokern train --method mezo-svrg --interval 10[/cyan]  (another method and an option of its own)
[cyan]zokern train --method fo-adamw[/cyan]  (first order, to compare with)
[cyan]zokern train --model facebook/opt-125m --task sst2[/cyan]  (model and data from the hub)
[cyan]zokern train --model ./model --task ./data --prompt "{text}" --answer "It was"
    --label-words terrible,great[/cyan]
[cyan]zokern train --train-modules "*layers.29.*"[/cyan]  (one layer only)
[cyan]zokern train --resume runs/mr-smollm2-mezo-lora-seed0[/cyan]
"""


@plain_errors
def train(
    task: Annotated[
        str,
        option(
            _WHAT,
            f"Task: {', '.join(TASKS)}; from the hub: {', '.join(HUB_TASKS)}; or a data-set hub id "
            "(owner/name), a local folder or file.",
        ),
    ] = "mr",
    model: Annotated[
        str | None,
        option(
            _WHAT,
            "Model: smollm2, minilm, mlp, a hub name or a local folder.",
            show_default="the task's own",
        ),
    ] = None,
    method: Annotated[
        str,
        option(
            _WHAT,
            "; ".join(f"[bold]{n}[/bold]: {m.summary}" for n, m in METHODS.items())
            + ". The fo- methods resume from their last checkpoint and repeat the steps since, the others "
            "from the log of losses.",
        ),
    ] = "mezo",
    scoring: Annotated[
        str,
        option(
            _WHAT,
            "label-words: prompt a language model and compare its words for the classes; head: a "
            "classification head, no prompt; auto: label words where the model can.",
        ),
    ] = "auto",
    prompt: Annotated[
        str | None,
        option(_TEXT, "Question put to the model, with {column} places.", show_default="task's"),
    ] = None,
    answer: Annotated[
        str | None,
        option(_TEXT, "What precedes the label word.", show_default="task's"),
    ] = None,
    label_words: Annotated[
        str | None,
        option(
            _TEXT,
            "One word per class, in class order, with commas; each a single token of the model.",
            show_default="task's",
        ),
    ] = None,
    chat: Annotated[
        bool | None,
        option(
            _TEXT,
            "Wrap the prompt in the model's chat template.",
            "--chat/--no-chat",
            show_default="if it has one",
        ),
    ] = None,
    text_columns: Annotated[
        str | None,
        option(_TEXT, "Text columns of hub or local data, with commas.", show_default="all text"),
    ] = None,
    label_column: Annotated[
        str | None, option(_TEXT, "Label column of hub or local data.", show_default="label")
    ] = None,
    task_config: Annotated[str | None, option(_TEXT, "The hub's configuration name of the data set.")] = None,
    max_words: Annotated[
        int | None,
        option(_TEXT, "Keep so many words of each text.", show_default="task's (mr: 40)"),
    ] = None,
    max_length: Annotated[int, option(_TEXT, "Longest prompt in tokens; texts are shortened to fit.")] = 512,
    train_size: Annotated[
        int | None, option(_TEXT, "Train on the first so many examples.", show_default="all")
    ] = None,
    test_size: Annotated[
        int, option(_TEXT, "Test on so many held-out examples, the same for every seed.")
    ] = 500,
    tuning: Annotated[
        str | None,
        option(
            _TUNE,
            f"One of {', '.join(TUNINGS)}.",
            "--tuning",
            "--tune",
            show_default="lora; adazeta: tt; sparse-mezo: full; mlp: full; minilm: head",
        ),
    ] = None,
    train_modules: Annotated[
        list[str] | None,
        option(
            _TUNE,
            'Train the parameters or modules matching this pattern, as "*.layers.29.*"; repeatable.',
        ),
    ] = None,
    last_layers: Annotated[int, option(_TUNE, "Blocks trained by --tuning last-layers.")] = 2,
    lora_rank: Annotated[int, option(_TUNE, "LoRA rank r.")] = 4,
    lora_alpha: Annotated[float, option(_TUNE, "LoRA is scaled by alpha / r.")] = 32.0,
    lora_targets: Annotated[
        str | None,
        option(_TUNE, "Linear layers that get LoRA, with commas.", show_default="query and value"),
    ] = None,
    bottleneck: Annotated[int, option(_TUNE, "Features inside a TT adapter.")] = 64,
    rank: Annotated[int, option(_TUNE, "TT-rank of a TT adapter's projections.")] = 5,
    prefix_tokens: Annotated[int, option(_TUNE, "Tokens of the prefix.")] = 5,
    lr: Annotated[
        float | None,
        option(
            _OPT,
            "Learning rate. Zeroth-order rates are far below first-order ones: about 1e-6 for full "
            "tuning, 1e-4 to 1e-3 for adapters.",
            show_default="by method and tuning",
        ),
    ] = None,
    eps: Annotated[
        float | None,
        option(
            _OPT,
            "Perturbation scale of the finite difference: 1e-3 for full tuning, 1e-2 for LoRA, 1e-1 for a "
            "prefix.",
            show_default="by tuning",
        ),
    ] = None,
    distribution: Annotated[str, option(_OPT, "Of the directions: gaussian or rademacher.")] = "gaussian",
    weight_decay: Annotated[
        float | None,
        option(_OPT, "Weight decay, decoupled but for zo-adam.", show_default="0; adamw: 0.01"),
    ] = None,
    lr_schedule: Annotated[
        str | None,
        option(_OPT, "constant, linear (to 0) or cosine (to 0).", show_default="task's"),
    ] = None,
    warmup_steps: Annotated[int, option(_OPT, "Steps of linear warm-up.")] = 0,
    restore: Annotated[
        str,
        option(
            _OPT,
            "How weights come back after a perturbation: inplace (no memory), exact (never moved), "
            "snapshot (a copy), auto (inplace for fp32, else snapshot or exact).",
        ),
    ] = "auto",
    lazy: Annotated[
        bool,
        option(_OPT, "Fuse restore and update into the next step's first pass.", "--lazy/--no-lazy"),
    ] = True,
    rounding: Annotated[
        str, option(_OPT, "Of updates to 16-bit weights: stochastic or nearest.")
    ] = "stochastic",
    num_queries: Annotated[
        int | None,
        option(
            _QUERY,
            "Directions averaged per step: less noise, more forwards.",
            show_default="1; adazeta: by epoch",
        ),
    ] = None,
    query_schedule: Annotated[
        bool,
        option(
            _QUERY,
            "Directions by epoch e (AdaZeta's schedule, for any method): alpha e^beta, rounded down, "
            "at least 1 and at most the maximum.",
            "--query-schedule",
        ),
    ] = False,
    query_alpha: Annotated[float, option(_QUERY, "Factor of the schedule.")] = 0.85,
    query_beta: Annotated[float, option(_QUERY, "Exponent of the schedule.")] = 0.45,
    query_max: Annotated[int, option(_QUERY, "Most directions of the schedule.")] = 20,
    queries: Annotated[
        str,
        option(
            _QUERY,
            "adazeta: evaluate a step's perturbed copies in a loop, or in parallel, in one forward over "
            "the batch repeated for each (adapters and heads; takes their activations' memory).",
        ),
    ] = "loop",
    max_parallel: Annotated[
        int | None, option(_QUERY, "Most copies in one forward.", show_default="all")
    ] = None,
    one_sided: Annotated[
        bool, option(_QUERY, "One shared base loss instead of pairs (queries + 1 forwards).")
    ] = False,
    momentum: Annotated[float, option(_SPECIAL, "mezo, fo-sgd: heavy-ball momentum, below 1.")] = 0.0,
    betas: Annotated[
        str,
        option(_SPECIAL, "zo-adam, -adamw, -adamax, -adamm, fo-adamw: decay rates of the two moments."),
    ] = "0.9,0.999",
    adam_eps: Annotated[float, option(_SPECIAL, "The same: added to the denominator.")] = 1e-8,
    orient_momentum: Annotated[
        bool,
        option(
            _SPECIAL,
            "zo-adamu: keep the momentum with the sign of the slope, as its authors' code does.",
            "--orient-momentum",
        ),
    ] = False,
    interval: Annotated[
        int, option(_SPECIAL, "mezo-svrg, zo-svrg: steps from one full batch to the next.")
    ] = 5,
    full_batch_size: Annotated[
        int, option(_SPECIAL, "The same: examples of the full batch, run in parts.")
    ] = 64,
    lr_minibatch: Annotated[
        float | None,
        option(
            _SPECIAL, "mezo-svrg: learning rate of the steps between full batches.", show_default="0.3 lr"
        ),
    ] = None,
    snapshot: Annotated[
        str,
        option(
            _SPECIAL,
            "mezo-svrg, zo-svrg: reach the weights of the last full batch by replay (no memory) or "
            "keep a copy of them.",
        ),
    ] = "replay",
    sparsity: Annotated[
        float, option(_SPECIAL, "sparse-mezo: share of each tensor that is frozen, the largest weights.")
    ] = 0.75,
    mask_refresh: Annotated[
        int | None,
        option(
            _SPECIAL,
            "The same: steps until the thresholds of the weights are found again.",
            show_default="full: never; adapters: 1",
        ),
    ] = None,
    blocks: Annotated[
        int | None,
        option(_SPECIAL, "The same: layers that a step moves, drawn at random.", show_default="all"),
    ] = None,
    steps: Annotated[int | None, option(_RUN, "Training steps.", show_default="task's (mr: 160)")] = None,
    batch_size: Annotated[
        int | None, option(_RUN, "Examples per step.", show_default="task's (mr: 8)")
    ] = None,
    dtype: Annotated[str, option(_RUN, "fp32, bf16 or fp16, of the model's weights.")] = "fp32",
    device: Annotated[str, option(_RUN, "cpu, cuda, cuda:1, ..., or auto.")] = "auto",
    threads: Annotated[int | None, option(_RUN, "CPU threads.", show_default="PyTorch's choice")] = None,
    seed: Annotated[int, option(_RUN, "Of directions, batches and fresh weights.")] = 0,
    eval_every: Annotated[int, option(_RUN, "Test every so many steps too; 0: only before and after.")] = 0,
    eval_size: Annotated[
        int | None,
        option(_RUN, "Test examples of the tests in between.", show_default="all"),
    ] = None,
    eval_before: Annotated[
        bool, option(_RUN, "Test before the first step.", "--eval-before/--no-eval-before")
    ] = True,
    eval_batch_size: Annotated[int, option(_RUN, "Examples per test forward.")] = 32,
    out: Annotated[
        str | None,
        option(_OUT, "Output folder.", show_default="runs/TASK-MODEL-METHOD-TUNING-seedN"),
    ] = None,
    overwrite: Annotated[bool, option(_OUT, "Replace the run that is in the folder.")] = False,
    resume: Annotated[
        Path | None,
        option(
            _OUT,
            "Continue the run in this folder with its own options (only --steps may be given "
            "beside it). The result is the one an uninterrupted run would have had.",
            metavar="FOLDER",
        ),
    ] = None,
    checkpoint_every: Annotated[
        int,
        option(
            _OUT,
            "Steps between checkpoints. Steps since the last one are never lost: they are repeated "
            "from the log without forwards.",
        ),
    ] = 50,
    quiet: Annotated[bool, option(_OUT, "Print the closing table only.", "--quiet", "-q")] = False,
) -> None:
    given = dict(locals())
    for name in ("resume", "overwrite", "quiet"):
        given.pop(name)
    from zokern.training import Stopped, TrainOptions, run_training

    given["betas"] = _numbers("--betas", betas)
    given["label_words"] = words(label_words)
    given["text_columns"] = words(text_columns) or ()
    given["lora_targets"] = words(lora_targets) or ()
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
            display=make_display(quiet),
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


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{name} must be numbers with commas between, got {text!r}.") from None


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
