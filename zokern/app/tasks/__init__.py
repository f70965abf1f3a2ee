"""Tasks: data, prompts, label words and metrics of `zokern train`.

`TASKS` names what is built in; anything else is taken as a `datasets` hub id or a local folder.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace

from zokern.app.tasks.base import ArrayTask, Example, Task, TextTask
from zokern.app.tasks.digits import digits
from zokern.app.tasks.errors import UserError, explain_os_error
from zokern.app.tasks.fetch import Progress, cache_dir
from zokern.app.tasks.hub import HUB_TASKS, HubTask, hub_task
from zokern.app.tasks.metrics import Evaluation, evaluate_logits
from zokern.app.tasks.packaged import movie_reviews, reuters
from zokern.app.tasks.sources import local_path

__all__ = [
    "HUB_TASKS",
    "TASKS",
    "ArrayTask",
    "Evaluation",
    "Example",
    "HubTask",
    "Task",
    "TextTask",
    "UserError",
    "cache_dir",
    "evaluate_logits",
    "explain_os_error",
    "load_task",
]

# name -> builder; the builder gets a download-progress callback.
TASKS: dict[str, Callable[[Progress | None], Task]] = {
    "mr": lambda progress: movie_reviews(2, progress),
    "mr5": lambda progress: movie_reviews(5, progress),
    "reuters": lambda progress: reuters(8, progress),
    "reuters-r52": lambda progress: reuters(52, progress),
    "digits": lambda progress: digits(),
}


def load_task(
    name: str,
    *,
    prompt: str | None = None,
    answer: str | None = None,
    label_words: Sequence[str] | None = None,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    config: str | None = None,
    encoding: str | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    progress: Progress | None = None,
    notify: Callable[[str], None] | None = None,
) -> Task:
    """Loads a task and applies the user's wording and sizes.

    Args:
        name: a key of `TASKS` or `HUB_TASKS`, a hub id, or a local folder or file.
        prompt, answer, label_words: replace the task's own.
        text_columns, label_column, config: for hub and local data.
        encoding: of local text files; None: utf-8, or by their byte-order mark.
        train_size, test_size: keep the first so many in the fixed order; None keeps all.
        progress: called with (bytes so far, bytes in all) while something downloads.
        notify: called with a sentence before a slow step.

    Raises:
        UserError: unknown name, failed download, columns or words that do not fit.
    """
    if name in TASKS:
        given = {"text-columns": text_columns, "label-column": label_column, "task-config": config}
        for option, value in {**given, "encoding": encoding}.items():
            if value:
                words = value if isinstance(value, str) else ",".join(value)
                raise UserError(f"--{option} {words} is for hub and local data; task {name} has its own.")
        task = TASKS[name](progress)
    elif name in HUB_TASKS or local_path(name).exists() or "/" in name:
        spec = HUB_TASKS.get(name) or HubTask(name, words=())
        spec = replace(spec, label=label_column or spec.label, config=config or spec.config)
        spec = replace(spec, prompt=spec.prompt if prompt is None else prompt)
        if notify is not None and not local_path(spec.path).exists():
            notify(f"Looking for data set {spec.path} on the hub")
        task = hub_task(name, spec, columns=text_columns, encoding=encoding)
    else:
        known = [*TASKS, *HUB_TASKS]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise UserError(
            f"Unknown task {name!r}. {hint}Known: {', '.join(known)}; or a data-set hub id such as "
            "owner/name, or a local folder."
        )
    if isinstance(task, TextTask):
        task.prompt = task.prompt if prompt is None else prompt
        task.answer = task.answer if answer is None else answer
        task.label_words = task.label_words if label_words is None else tuple(label_words)
        task.train, task.test = task.train[:train_size], task.test[:test_size]
        if task.data is not None:
            task.data.train.cut(len(task.train), "--train-size")
            task.data.test.cut(len(task.test), "--test-size")
            task.data.settle(task.labels, task.train, task.test)
        task.check()
    elif isinstance(task, ArrayTask):
        task.train_x, task.train_y = task.train_x[:train_size], task.train_y[:train_size]
        task.test_x, task.test_y = task.test_x[:test_size], task.test_y[:test_size]
    return task
