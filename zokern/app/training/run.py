"""Putting a run together: task, model, tuning, optimizer, folder; new or resumed."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zokern.app.defaults import resolve
from zokern.app.fields import about
from zokern.app.methods import Method, build_optimizer, check_method
from zokern.app.models import Classifier, load_classifier
from zokern.app.options import DTYPES, TrainOptions
from zokern.app.tasks import Task, UserError, load_task
from zokern.app.training.checkpoint import Checkpoint, fingerprint, read_checkpoint
from zokern.app.training.display import Display
from zokern.app.training.folder import CONFIG, Folder
from zokern.app.training.log import LineLog, read_steps
from zokern.app.training.seal import FORMAT, open_logs, seal_line
from zokern.app.tuning import Tuned, TuningOptions, apply_tuning

__all__ = ["Run", "load_model", "load_run_task", "new_run", "resumed_run"]


@dataclass
class Run:
    """Everything the loop needs.

    Args:
        done: steps already in the checkpoint.
        logged: step -> losses of the steps after it that only the log knows.
    """

    options: TrainOptions
    task: Task
    model: Classifier
    tuned: Tuned
    method: Method
    optimizer: Any
    folder: Folder
    steps_log: LineLog
    metrics_log: LineLog
    done: int
    logged: dict[int, list[float]]
    trainable: int


def new_run(options: TrainOptions, display: Display, overwrite: bool = False) -> Run:
    """Starts a run in its folder.

    Raises:
        UserError: an option, the folder, the task or the model does not do.
    """
    options.check()
    check_method(options)
    if options.out is not None:
        folder = Folder(Path(options.out))
        _refuse_if_taken(folder, overwrite)
    task = load_run_task(options, display)
    options = resolve(options, task)
    if options.out is None:
        name = str(options.model).rstrip("/").split("/")[-1]
        parts = (Path(options.task).name, name, options.method, options.tuning)
        options.out = str(Path("runs") / f"{'-'.join(str(p)[:60] for p in parts)}-seed{options.seed}")
    folder = Folder(Path(options.out))
    _refuse_if_taken(folder, overwrite)
    parts_ = _build(options, task, display)
    with about("--out", options.out):
        folder.claim(overwrite)
    config = {
        "format": FORMAT,
        "options": options.as_dict(),
        "fingerprint": fingerprint(parts_[0]),
        "versions": _versions(),
        "data": None if task.data is None else task.data.as_dict(),
    }
    with folder.lock.held_on_error():
        folder.write_json(CONFIG, config)
        steps_log, metrics_log, _ = open_logs(folder, config)
        return _assemble(options, task, parts_, folder, (steps_log, metrics_log), display)


def resumed_run(path: Path, steps: int | None, display: Display) -> Run:
    """Opens a run where it stopped.

    Args:
        path: the run's folder.
        steps: a new total, longer or shorter; None keeps the old.
        display: for the header.

    Raises:
        UserError: there is no run, or model and data are not those it was started with.
    """
    folder = Folder(path)
    with about("--resume", path):
        folder.read_config()  # there is a run
        folder.lock.take()
        with folder.lock.held_on_error():
            return _resumed(folder, steps, display)


def _resumed(folder: Folder, steps: int | None, display: Display) -> Run:
    path = folder.path
    steps_log, metrics_log, config = open_logs(folder, folder.read_config())
    options = TrainOptions.from_dict(config["options"])
    if steps is not None and steps != options.steps:
        if options.lr_schedule != "constant":
            raise UserError(
                f"--steps cannot change on resume with --lr-schedule {options.lr_schedule}: the "
                "rates of the steps already taken depend on it."
            )
        options.steps = steps
    options.check()
    options.out = str(path)
    task = load_run_task(options, display)
    _refuse_other_data(path, task, config)
    parts = _build(options, task, display)
    found = fingerprint(parts[0])
    if found != config.get("fingerprint"):
        raise UserError(
            f"The model is not the one the run in {path} was started with (fingerprint {found}, "
            f"was {config.get('fingerprint')}); a resumed run would be another run."
        )
    run = _assemble(options, task, parts, folder, (steps_log, metrics_log), display)
    if steps is not None:
        changed = {**config, "options": options.as_dict()}
        if steps_log.start is not None and seal_line(changed) != seal_line(config):
            steps_log.append(seal_line(changed))
        folder.write_json(CONFIG, changed)
    return run


def _refuse_other_data(path: Path, task: Task, config: dict[str, Any]) -> None:
    """A run goes on with the examples it began with; runs of earlier versions have no record of them."""
    old = config.get("data")
    if task.data is None or not isinstance(old, dict) or old.get("sha256") == task.data.sha256:
        return
    now = task.data.as_dict()
    rows = [f"{split['train']['rows_used']} and {split['test']['rows_used']}" for split in (old, now)]
    raise UserError(
        f"The data of {task.name} is not what the run in {path} was started with ({rows[0]} rows to train and "
        f"test on then, {rows[1]} now, checksum {str(old.get('sha256'))[:16]} then, {task.data.sha256[:16]} "
        "now); a resumed run would be another run."
    )


def _refuse_if_taken(folder: Folder, overwrite: bool) -> None:
    """Says so before anything slow happens; `claim` decides again when the run starts."""
    with about("--out", folder.path):
        if not overwrite and folder.path.exists():
            folder.check_free(overwrite=False)


def load_run_task(options: TrainOptions, display: Display) -> Task:
    """The task that the options name, in their wording and sizes."""
    with about("--task", options.task), display.bytes_bar(f"fetching data for {options.task}") as progress:
        return load_task(
            options.task,
            prompt=options.prompt,
            answer=options.answer,
            label_words=options.label_words,
            text_columns=options.text_columns,
            label_column=options.label_column,
            config=options.task_config,
            encoding=options.encoding,
            train_size=options.train_size,
            test_size=options.test_size,
            progress=progress,
            notify=display.say,
        )


def load_model(options: TrainOptions, task: Task, display: Display) -> Classifier:
    """The model that the options name, on their device and with their threads."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = _device(options.device)
    with about("--model", options.model), display.bytes_bar(f"fetching model {options.model}") as progress:
        return load_classifier(
            options.model,
            task,
            scoring=options.scoring,
            dtype=DTYPES[options.dtype],
            device=device,
            seed=options.seed,
            chat=options.chat,
            max_words=options.max_words,
            max_length=options.max_length,
            progress=progress,
            notify=display.say,
        )


def _device(name: str) -> torch.device:
    """The device of that name, if it computes anything."""
    try:
        device = torch.device(name)
        torch.ones(1, device=device).add_(1).item()
    except Exception as error:  # each kind of device raises its own
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise UserError(f"--device {name} cannot be used: {reason}.") from None
    return device


Parts = tuple[Classifier, Tuned, Method, Any]


def _build(options: TrainOptions, task: Task, display: Display) -> Parts:
    model = load_model(options, task, display)
    assert options.tuning is not None  # resolved
    wanted = TuningOptions(
        modules=options.train_modules,
        last_layers=options.last_layers,
        lora_rank=options.lora_rank,
        lora_alpha=options.lora_alpha,
        lora_targets=options.lora_targets,
        bottleneck=options.bottleneck,
        rank=options.rank,
        prefix_tokens=options.prefix_tokens,
        seed=options.seed,
    )
    with about("--tuning", options.tuning):
        tuned = apply_tuning(options.tuning, model, wanted)
    model.to(options.device).eval()
    model.prepare(task)
    method, optimizer = build_optimizer(model, options)
    return model, tuned, method, optimizer


def _assemble(
    options: TrainOptions,
    task: Task,
    parts: Parts,
    folder: Folder,
    logs: tuple[LineLog, LineLog],
    display: Display,
) -> Run:
    model, tuned, method, optimizer = parts
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    steps_log, metrics_log = logs
    done, logged = _take_up(
        options, method, folder, logs, lambda c: c.restore(model, optimizer), display.warn
    )
    return Run(
        options=dataclasses.replace(options),
        task=task,
        model=model,
        tuned=tuned,
        method=method,
        optimizer=optimizer,
        folder=folder,
        steps_log=steps_log,
        metrics_log=metrics_log,
        done=done,
        logged=logged,
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )


def _take_up(
    options: TrainOptions,
    method: Method,
    folder: Folder,
    logs: tuple[LineLog, LineLog],
    restore: Callable[[Checkpoint], None],
    warn: Callable[[str], None],
) -> tuple[int, dict[int, list[float]]]:
    """Restores the last checkpoint that can be used, and cuts the logs to what is known of the run.

    Returns:
        Its step (0: none), and the logged losses of each step after it, which are repeated.
    """
    steps_log, metrics_log = logs
    steps = read_steps(steps_log)
    for log in logs:
        if log.damage:
            warn(log.damage)
    checkpoint = read_checkpoint(folder.path, None if steps_log.start is None else steps_log.checks, warn)
    done = 0 if checkpoint is None else checkpoint.step
    if method.replay is None:
        steps = {number: losses for number, losses in steps.items() if number <= done}
    gap = _first_gap(metrics_log, max(steps, default=done), options)
    if gap is not None and gap <= done:
        again = "are written again from the log, but for tests"
        if method.replay is not None:
            checkpoint, done = None, 0
            again = "are made again: the steps are repeated from the log, without forwards but for tests"
        warn(f"{metrics_log.path} lacks rows from step {gap} on; they {again}.")
    logged = {number: losses for number, losses in steps.items() if number > done}
    if logged and min(logged) != done + 1:
        raise UserError(
            f"{steps_log.path} starts at step {min(steps)}, but the last whole checkpoint is after "
            f"step {done}: the steps between are lost."
        )
    if checkpoint is not None:
        restore(checkpoint)
    last = max(logged, default=done)
    steps_log.cut(lambda row: "options" in row or row["step"] <= last)
    metrics_log.cut(
        lambda row: (
            row["step"] <= last
            and (gap is None or row["step"] < gap or (row["step"] == gap and row["kind"] == "step"))
        )
    )
    return done, logged


def _first_gap(metrics_log: LineLog, last: int, options: TrainOptions) -> int | None:
    """The first of the steps up to `last` of which metrics.jsonl lacks a row."""
    assert options.steps is not None  # resolved
    known = {(row["kind"], row["step"]) for row in metrics_log.rows}
    expected = {("step", step) for step in range(1, last + 1)}
    expected |= {("eval", 0)} if options.eval_before else set()
    if options.eval_every:
        tests = range(options.eval_every, min(last + 1, options.steps), options.eval_every)
        expected |= {("eval", step) for step in tests}
    return min((step for _, step in expected - known), default=None)


def _versions() -> dict[str, str]:
    from importlib import metadata

    import zokern

    versions = {"zokern": zokern.__version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "peft", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
