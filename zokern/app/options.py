"""Everything a run is asked for. Each option is declared once: its default, its words in the help, its values.

In the words, `$readers` are the methods that read the option, and other `$names` what the command knows of
tasks, tunings and methods.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any

import torch

from zokern.app.fields import check_values, option
from zokern.app.tasks import UserError

__all__ = ["DTYPES", "MOST_THREADS", "RENAMED", "SCHEDULES", "TrainOptions", "lr_factor", "renamed"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SCHEDULES = ("constant", "linear", "cosine")
MOST_FEATURES = 1 << 16
"""Of an adapter or prefix: more than a model is wide; a number mistyped would take all memory."""
MOST_THREADS = max(256, 4 * (os.cpu_count() or 1))
"""PyTorch starts as many as it is told to, and dies where the system has no more."""

RENAMED: dict[str, tuple[str, dict[str, str]]] = {
    "queries": ("evaluation", {"parallel": "batched"}),
    "snapshot": ("anchor", {}),
}
"""Old name -> the option's name now, and its old values with theirs now."""

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


@dataclass
class TrainOptions:
    """The options of `zokern train`; None means "the task's, the method's or the tuning's default".

    `zokern.app.defaults.resolve` fills the Nones in, after which the options say all there is to say about the
    run and are written to config.json.
    """

    task: str = option(
        "mr",
        _WHAT,
        "Task: $tasks; from the hub: $hub_tasks; or a data-set hub id (owner/name), a local folder or file "
        "($formats).",
    )
    model: str | None = option(
        None, _WHAT, "Model: smollm2, minilm, mlp, a hub name or a local folder.", shown="the task's own"
    )
    method: str = option("mezo", _WHAT, "$methods")
    scoring: str = option(
        "auto",
        _WHAT,
        "label-words: prompt a language model and compare its words for the classes; head: a classification "
        "head, no prompt; auto: label words where the model can.",
        choices=("auto", "label-words", "head"),
    )

    prompt: str | None = option(
        None,
        _TEXT,
        "Question put to the model, with {column} places; {{ and }} are braces.",
        shown="task's",
        may_be_empty=True,
    )
    answer: str | None = option(
        None, _TEXT, "What precedes the label word.", shown="task's", may_be_empty=True
    )
    label_words: tuple[str, ...] | None = option(
        None,
        _TEXT,
        "One word per class, in class order, with commas; each a single token of the model. Classes stand in "
        "the order the data gives them, else by number, else by text; the header lists them.",
        shown="task's",
    )
    chat: bool | None = option(
        None,
        _TEXT,
        "Wrap the prompt in the model's chat template.",
        "--chat/--no-chat",
        shown="if it has one",
    )
    text_columns: tuple[str, ...] = option(
        (),
        _TEXT,
        "Text columns of hub or local data, with commas; a name that holds a comma in double quotes.",
        shown="all text",
    )
    label_column: str | None = option(None, _TEXT, "Label column of hub or local data.", shown="label")
    encoding: str | None = option(
        None,
        _TEXT,
        "Encoding of local csv, tsv and json files, as cp1252.",
        shown="utf-8, or by the byte-order mark",
    )
    task_config: str | None = option(None, _TEXT, "The hub's configuration name of the data set.")
    max_words: int | None = option(
        None, _TEXT, "Keep so many words of each text.", shown="task's (mr: 40)", positive=True
    )
    max_length: int = option(
        512, _TEXT, "Longest prompt in tokens; texts are shortened to fit.", positive=True
    )
    train_size: int | None = option(
        None, _TEXT, "Train on the first so many examples.", shown="all", positive=True
    )
    test_size: int = option(
        500, _TEXT, "Test on so many held-out examples, the same for every seed.", positive=True
    )

    tuning: str | None = option(
        None, _TUNE, "One of $tunings.", "--tuning", "--tune", shown="$default_tunings"
    )
    train_modules: tuple[str, ...] = option(
        (),
        _TUNE,
        'Train the parameters or modules matching this pattern, as "*.layers.29.*"; repeatable.',
        repeated=True,
    )
    last_layers: int = option(2, _TUNE, "Blocks trained by --tuning last-layers.", positive=True)
    lora_rank: int = option(4, _TUNE, "LoRA rank r.", positive=True, most=MOST_FEATURES)
    lora_alpha: float = option(32.0, _TUNE, "LoRA is scaled by alpha / r.", positive=True)
    lora_targets: tuple[str, ...] = option(
        (), _TUNE, "Linear layers that get LoRA, with commas.", shown="query and value"
    )
    bottleneck: int = option(64, _TUNE, "Features inside a TT adapter.", positive=True, most=MOST_FEATURES)
    rank: int = option(5, _TUNE, "TT-rank of a TT adapter's projections.", positive=True, most=MOST_FEATURES)
    prefix_tokens: int = option(5, _TUNE, "Tokens of the prefix.", positive=True, most=MOST_FEATURES)

    lr: float | None = option(
        None,
        _OPT,
        "Learning rate. Zeroth-order rates are far below first-order ones: about 1e-6 for full tuning, 1e-4 to "
        "1e-3 for adapters.",
        shown="by method and tuning",
        positive=True,
    )
    eps: float | None = option(
        None,
        _OPT,
        "Perturbation scale of the finite difference: 1e-3 for full tuning, 1e-2 for LoRA, 1e-1 for a prefix.",
        shown="by tuning",
        positive=True,
    )
    distribution: str = option(
        "gaussian",
        _OPT,
        "Of the directions: gaussian or rademacher.",
        choices=("gaussian", "rademacher"),
    )
    weight_decay: float | None = option(
        None,
        _OPT,
        "Weight decay, decoupled but for $coupled.",
        shown="0; $decaying",
        not_negative=True,
    )
    lr_schedule: str | None = option(
        None, _OPT, "constant, linear (to 0) or cosine (to 0).", shown="task's", choices=SCHEDULES
    )
    warmup_steps: int = option(0, _OPT, "Steps of linear warm-up.", not_negative=True)
    restore: str = option(
        "auto",
        _OPT,
        "How weights come back after a perturbation: inplace (no memory), exact (never moved), snapshot (a "
        "copy), auto (inplace for fp32, else snapshot or exact).",
        choices=("auto", "inplace", "exact", "snapshot"),
    )
    lazy: bool = option(
        True, _OPT, "Fuse restore and update into the next step's first pass.", "--lazy/--no-lazy"
    )
    rounding: str = option(
        "stochastic",
        _OPT,
        "Of updates to 16-bit weights: stochastic or nearest.",
        choices=("stochastic", "nearest"),
    )

    num_queries: int | None = option(
        None,
        _QUERY,
        "Directions averaged per step: less noise, more forwards.",
        shown="1; $scheduled: by epoch",
        positive=True,
    )
    query_schedule: bool = option(
        False,
        _QUERY,
        "Directions by epoch e ($scheduled's schedule, for any method): alpha e^beta, rounded down, at least 1 "
        "and at most the maximum.",
        "--query-schedule",
    )
    query_alpha: float = option(0.85, _QUERY, "Factor of the schedule.", positive=True)
    query_beta: float = option(0.45, _QUERY, "Exponent of the schedule.", not_negative=True)
    query_max: int = option(20, _QUERY, "Most directions of the schedule.", positive=True)
    evaluation: str = option(
        "loop",
        _QUERY,
        "$readers: evaluate a step's perturbed copies in a loop, or batched, in one forward over the batch "
        "repeated for each (adapters and heads; takes their activations' memory).",
        choices=("loop", "batched"),
    )
    max_parallel: int | None = option(None, _QUERY, "Most copies in one forward.", shown="all", positive=True)
    one_sided: bool = option(False, _QUERY, "One shared base loss instead of pairs (queries + 1 forwards).")

    momentum: float = option(0.0, _SPECIAL, "$readers: heavy-ball momentum, below 1.", not_negative=True)
    betas: tuple[float, float] = option((0.9, 0.999), _SPECIAL, "$readers: decay rates of the two moments.")
    adam_eps: float = option(1e-8, _SPECIAL, "$readers: added to the denominator.", positive=True)
    orient_momentum: bool = option(
        False,
        _SPECIAL,
        "$readers: keep the momentum with the sign of the slope, as its authors' code does.",
        "--orient-momentum",
    )
    interval: int = option(5, _SPECIAL, "$readers: steps from one full batch to the next.", positive=True)
    full_batch_size: int = option(
        64, _SPECIAL, "$readers: examples of the full batch, run in parts.", positive=True
    )
    lr_minibatch: float | None = option(
        None,
        _SPECIAL,
        "$readers: learning rate of the steps between full batches.",
        shown="$shown",
        positive=True,
    )
    anchor: str = option(
        "replay",
        _SPECIAL,
        "$readers: reach the weights of the last full batch by replay (no memory) or keep a copy of them.",
        choices=("replay", "copy"),
    )
    sparsity: float = option(
        0.75, _SPECIAL, "$readers: share of each tensor that is frozen, the largest weights."
    )
    mask_refresh: int | None = option(
        None,
        _SPECIAL,
        "$readers: steps until the thresholds of the weights are found again.",
        shown="$shown",
        positive=True,
    )
    blocks: int | None = option(
        None,
        _SPECIAL,
        "$readers: layers that a step moves, drawn at random.",
        shown="all",
        positive=True,
    )

    steps: int | None = option(None, _RUN, "Training steps.", shown="task's (mr: 160)", positive=True)
    batch_size: int | None = option(None, _RUN, "Examples per step.", shown="task's (mr: 8)", positive=True)
    dtype: str = option("fp32", _RUN, "fp32, bf16 or fp16, of the model's weights.", choices=tuple(DTYPES))
    device: str = option("auto", _RUN, "cpu, cuda, cuda:1, ..., or auto.")
    threads: int | None = option(
        None, _RUN, "CPU threads.", shown="PyTorch's choice", positive=True, most=MOST_THREADS
    )
    seed: int = option(0, _RUN, "Of directions, batches and fresh weights.", most=math.inf)
    eval_every: int = option(
        0, _RUN, "Test every so many steps too; 0: only before and after.", not_negative=True
    )
    eval_size: int | None = option(
        None, _RUN, "Test examples of the tests in between.", shown="all", positive=True
    )
    eval_before: bool = option(True, _RUN, "Test before the first step.", "--eval-before/--no-eval-before")
    eval_batch_size: int = option(32, _RUN, "Examples per test forward.", positive=True)

    out: str | None = option(None, _OUT, "Output folder.", shown="runs/TASK-MODEL-METHOD-TUNING-seedN")
    checkpoint_every: int = option(
        50,
        _OUT,
        "Steps between checkpoints. Steps since the last one are never lost: they are repeated from the log "
        "without forwards.",
        positive=True,
    )

    def check(self) -> None:
        """Raises `UserError` naming the first option whose value cannot be."""
        check_values(self)
        if self.momentum >= 1:
            raise UserError(f"--momentum must be below 1, got {self.momentum!r}.")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            given = ",".join(f"{beta:g}" for beta in self.betas)
            raise UserError(f"--betas must be two numbers in [0, 1), as 0.9,0.999, got {given}.")
        if not 0 <= self.sparsity < 1:
            raise UserError(f"--sparsity must be in [0, 1), got {self.sparsity!r}.")
        if not 0 <= self.seed < 1 << 64:
            raise UserError(f"--seed must be in [0, 2^64), got {self.seed}.")
        if self.query_schedule and self.num_queries is not None:
            raise UserError(f"--query-schedule says how many; drop --num-queries {self.num_queries}.")
        if self.train_modules and self.tuning not in (None, "modules"):
            raise UserError(f"--train-modules says what to train by itself; drop --tuning {self.tuning}.")

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainOptions:
        """The inverse of `as_dict` after a round trip through JSON; knows the names of earlier versions."""
        values = dict(renamed(name, value) for name, value in values.items())
        unknown = sorted(values.keys() - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise UserError(f"config.json holds options this version does not know: {unknown[0]}.")
        return cls(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}  # type: ignore[arg-type]
        )


def renamed(name: str, value: Any) -> tuple[str, Any]:
    """An option's name and value as they are now, given those of this or an earlier version."""
    if name not in RENAMED:
        return name, value
    now, values = RENAMED[name]
    return now, values.get(value, value)


def lr_factor(schedule: str, step: int, steps: int, warmup: int) -> float:
    """What the learning rate is multiplied with at `step` (counted from 0); a pure function, so a
    resumed run sees the same rates."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "linear":
        return 1.0 - done
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0
