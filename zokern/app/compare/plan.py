"""From "mezo:lora,fo-adamw:full" and a budget of forward passes to runs with their numbers of steps.

A forward pass is one over a batch of `batch_size` examples; a full batch counts as many as it holds, a
first-order step as `FIRST_ORDER_STEP`. Evaluations are not counted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zokern.app.compare.baselines import BASELINES
from zokern.app.compare.options import CompareOptions
from zokern.app.defaults import resolve
from zokern.app.fields import shown
from zokern.app.methods import METHODS, check_method
from zokern.app.options import TrainOptions, renamed
from zokern.app.tasks import Task, UserError
from zokern.app.tuning import TUNINGS

__all__ = ["Cell", "plan"]

_PRINTABLE = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.=")


@dataclass(frozen=True)
class Cell:
    """One run.

    Args:
        label: as asked for, "mezo:lora"; the same for all seeds.
        method: a key of `METHODS` or `BASELINES`.
        options: complete but for the folder.
        folder: its place in the comparison's folder.
    """

    label: str
    method: str
    options: TrainOptions
    folder: str

    @property
    def seed(self) -> int:
        return self.options.seed


def plan(options: CompareOptions, task: Task) -> list[Cell]:
    """The runs of a comparison: seed by seed, so that an early look is of the whole grid.

    Raises:
        UserError: an unknown method, tuning or option, one asked for twice, or a budget smaller than a
            step.
    """
    options.check()
    labels = [part.strip() for part in options.runs.split(",") if part.strip()]
    if not labels:
        raise UserError(f"--runs names nothing to run, got {shown(options.runs)}.")
    for index, label in enumerate(labels):
        if label in labels[:index]:
            raise UserError(f"--runs names {label} twice.")
    cells = []
    for seed in range(options.seeds):
        for label in labels:
            if label in BASELINES and seed:
                continue
            cells.append(_cell(label, seed, options, task))
    return cells


def _cell(label: str, seed: int, options: CompareOptions, task: Task) -> Cell:
    method, tuning, given = _parts(label)
    chosen = dataclasses.replace(_common(method, tuning, seed, options), **_given(label, given))
    try:
        chosen.check()
        check_method(chosen)
        chosen = resolve(chosen, task)
    except UserError as error:
        raise UserError(f"--runs {label!r}: {error}") from None
    if method in METHODS:
        _spend(label, method, chosen, options)
    name = "".join(c if c in _PRINTABLE else "-" for c in label)
    return Cell(label, method, chosen, f"{name}-seed{seed}")


def _parts(label: str) -> tuple[str, str | None, list[str]]:
    """Method or baseline, tuning, and `OPTION=VALUE` parts of a label."""
    method, *rest = label.split(":")
    if method not in METHODS and method not in BASELINES:
        raise UserError(
            f"--runs {label!r}: unknown method {method!r}; known: {', '.join([*BASELINES, *METHODS])}."
        )
    tuning = rest.pop(0) if rest and "=" not in rest[0] else None
    if tuning is not None and tuning not in TUNINGS:
        raise UserError(f"--runs {label!r}: unknown tuning {tuning!r}; known: {', '.join(TUNINGS)}.")
    if method in BASELINES and (tuning or rest):
        raise UserError(f"--runs {label!r}: {method} has no tuning and no options.")
    return method, tuning, rest


def _common(method: str, tuning: str | None, seed: int, options: CompareOptions) -> TrainOptions:
    """A run's options before its own; a baseline has those of the default method."""
    return TrainOptions(
        task=options.task,
        model=options.model,
        method=method if method in METHODS else TrainOptions.method,
        tuning=tuning,
        scoring=options.scoring,
        prompt=options.prompt,
        answer=options.answer,
        label_words=options.label_words,
        text_columns=options.text_columns,
        label_column=options.label_column,
        encoding=options.encoding,
        task_config=options.task_config,
        train_size=options.train_size,
        test_size=options.test_size,
        eval_size=min(options.eval_size, options.test_size),
        eval_before=False,
        batch_size=options.batch_size,
        num_queries=1 if _asks_for_one_query(method) else None,
        lr_schedule=options.lr_schedule,
        dtype=options.dtype,
        device=options.device,
        threads=options.threads,
        seed=seed,
        steps=1,
    )


def _asks_for_one_query(method: str) -> bool:
    """Whether one direction a step is asked for: of methods that take a number and have no schedule."""
    return method in METHODS and METHODS[method].takes("num_queries") and not METHODS[method].scheduled


def _spend(label: str, method: str, chosen: TrainOptions, options: CompareOptions) -> None:
    """Fills in steps, tests and checkpoints of a run that spends the budget."""
    chosen.steps, used = _steps(method, chosen, options.forwards)
    if chosen.steps < 1:
        raise UserError(
            f"--forwards {options.forwards} is less than one step of {label} ({used:g} forward passes)."
        )
    every = math.ceil(chosen.steps / (options.evals + 1))
    chosen.eval_every = every if options.evals and every < chosen.steps else 0
    replayed = METHODS[method].replay is not None
    # a checkpoint of a full model takes seconds; where the log rebuilds it the last one is enough
    chosen.checkpoint_every = chosen.steps if replayed else math.ceil(chosen.steps / 2)


def _steps(method: str, options: TrainOptions, budget: float) -> tuple[int, float]:
    """The steps that fit in a budget, and what the first one takes."""
    step, used, first = 0, 0.0, METHODS[method].forwards(options, 0)
    while (cost := METHODS[method].forwards(options, step)) + used <= budget + 1e-9:
        used, step = used + cost, step + 1
    return step, first


def _given(label: str, parts: Sequence[str]) -> dict[str, Any]:
    """`OPTION=VALUE` parts as values of `TrainOptions`."""
    kinds = {field.name: str(field.type) for field in dataclasses.fields(TrainOptions)}
    fixed = {"task", "model", "method", "tuning", "steps", "out", "seed", "test_size", "train_modules"}
    values: dict[str, Any] = {}
    if any(
        part.startswith("query_schedule=true") or part.startswith("query-schedule=true") for part in parts
    ):
        values["num_queries"] = None
    for part in parts:
        name, _, text = part.partition("=")
        name, text = renamed(name.strip().replace("-", "_"), text)
        if name not in kinds or name in fixed:
            raise UserError(f"--runs {label!r}: {name.replace('_', '-')!r} is no option of a run.")
        kind = kinds[name]
        try:
            if kind.startswith("bool"):
                values[name] = {"true": True, "false": False}[text.lower()]
            elif kind.startswith("int"):
                values[name] = int(text)
            elif kind.startswith("float"):
                values[name] = float(text)
            elif kind.startswith("tuple[float"):
                values[name] = tuple(float(number) for number in text.split("/"))
            elif kind.startswith("tuple"):
                values[name] = tuple(text.split("/"))
            else:
                values[name] = text
        except (ValueError, KeyError):
            raise UserError(
                f"--runs {label!r}: {text!r} is no value of {name.replace('_', '-')} ({kind.split(' |')[0]})."
            ) from None
    return values


def place(options: CompareOptions) -> Path:
    """The default folder."""
    model = (options.model or "").rstrip("/").split("/")[-1]
    return Path("runs") / "-".join(part[:80] for part in ("compare", Path(options.task).name, model) if part)
