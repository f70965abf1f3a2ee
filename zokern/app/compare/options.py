"""What a comparison is asked for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from zokern.app.fields import check_values, option
from zokern.app.options import DTYPES, MOST_THREADS, SCHEDULES

__all__ = ["DEFAULT_RUNS", "CompareOptions"]

DEFAULT_RUNS = (
    "zero-shot,icl,linear-probe,mezo:lora,adazeta:tt,zo-adamu:lora,mezo-svrg:lora,zo-adam:lora,"
    "mezo:full,fo-adamw:lora,fo-adamw:last-layers,fo-adamw:full"
)

_WHAT, _COST, _TEST, _TEXT, _RUN, _OUT = (
    "What to compare",
    "Budget and data",
    "Tests",
    "Text",
    "Machine",
    "Output and resuming",
)


@dataclass
class CompareOptions:
    """The options of `zokern compare`."""

    task: str = option("mr", _WHAT, "$tasks, or what else zokern train --task takes.")
    model: str | None = option(
        None, _WHAT, "smollm2, minilm, mlp, a hub name or a folder.", shown="the task's own"
    )
    runs: str = option(
        DEFAULT_RUNS,
        _WHAT,
        "With commas: METHOD:TUNING, and :OPTION=VALUE for each option of its own; or zero-shot, icl (in-context "
        "learning), linear-probe.",
    )
    seeds: int = option(3, _WHAT, "Repeat each trained run with seeds 0, 1, ...", positive=True, most=10_000)
    forwards: int = option(240, _COST, "Forward passes of each run.", positive=True, most=10_000_000)
    batch_size: int = option(8, _COST, "Examples of a forward pass.", positive=True)
    lr_schedule: str = option("linear", _COST, "constant, linear (to 0) or cosine (to 0).", choices=SCHEDULES)
    train_size: int = option(1000, _COST, "Use the first so many training examples.", positive=True)
    shots: int = option(8, _COST, "icl: solved examples in the prompt.", positive=True)
    test_size: int = option(500, _TEST, "Examples of the closing test.", positive=True)
    evals: int = option(3, _TEST, "Tests on the way, for the curves.", not_negative=True)
    eval_size: int = option(160, _TEST, "Examples of those, the first of the test set.", positive=True)
    scoring: str = option(
        "auto", _TEXT, "label-words, head, or auto.", choices=("auto", "label-words", "head")
    )
    prompt: str | None = option(
        None, _TEXT, "Question, with {column} places.", shown="task's", may_be_empty=True
    )
    answer: str | None = option(
        None, _TEXT, "What precedes the label word.", shown="task's", may_be_empty=True
    )
    label_words: tuple[str, ...] | None = option(
        None, _TEXT, "One word per class, with commas.", shown="task's"
    )
    text_columns: tuple[str, ...] = option(
        (), _TEXT, "Text columns of hub or local data, with commas.", shown="all text"
    )
    label_column: str | None = option(None, _TEXT, "Label column of hub or local data.", shown="label")
    encoding: str | None = option(
        None, _TEXT, "Encoding of local text files.", shown="utf-8, or by the byte-order mark"
    )
    task_config: str | None = option(None, _TEXT, "The hub's configuration name of the data set.")
    dtype: str = option("fp32", _RUN, "fp32, bf16 or fp16, of the model's weights.", choices=tuple(DTYPES))
    device: str = option("auto", _RUN, "cpu, cuda, cuda:1, ..., or auto.")
    threads: int | None = option(
        None, _RUN, "CPU threads.", shown="PyTorch's choice", positive=True, most=MOST_THREADS
    )
    keep_weights: bool = option(False, _OUT, "Keep each run's weights and last checkpoint.", "--keep-weights")

    def check(self) -> None:
        """Raises `UserError` naming the first option whose value cannot be."""
        check_values(self)

    def settings(self) -> dict[str, Any]:
        """What must agree for two runs to belong in one table."""
        values = dataclasses.asdict(self)
        for name in ("runs", "seeds", "keep_weights"):
            del values[name]
        return values
