"""What a run says at its start and its end, and the files it leaves."""

from __future__ import annotations

import math
from typing import Any

import torch

from zokern import backends
from zokern.app import plots
from zokern.app.models import PromptedClassifier
from zokern.app.tasks import Evaluation, Task
from zokern.app.training.display import Display, format_duration
from zokern.app.training.folder import PLOT, SUMMARY, explained
from zokern.app.training.loop import Result
from zokern.app.training.run import Run

__all__ = ["CAVEAT", "data_facts", "draw", "finish", "show_header"]

CAVEAT = (
    "Much of what zeroth-order training gains on label words is calibration of the label prior: "
    'compare with the column "prior removed" before training, which needs no training at all.'
)


def show_header(run: Run, display: Display) -> None:
    """Says what is about to run."""
    options = run.options
    group = run.optimizer.param_groups[0]
    rates = f"lr {group['initial_lr']:g} ({options.lr_schedule})"
    if options.eps is not None:
        rates += f", eps {options.eps:g}"
    if options.num_queries and options.num_queries > 1:
        rates += f", {options.num_queries} queries"
    elif options.num_queries is None and run.method.takes("num_queries"):
        formula = f"min(max(1, {options.query_alpha:g} epoch^{options.query_beta:g}), {options.query_max})"
        rates += f", {formula} queries"
    restore = getattr(run.optimizer, "restore", options.restore)
    display.facts(
        [
            ("task", f"{run.task.name}: {run.task.source}"),
            ("", f"{run.task.train_length:,} to train on, {len(run.task.test_labels):,} to test"),
            *data_facts(run.task),
            ("model", run.model.description),
            ("tuning", f"{run.tuned.description}: {run.trainable:,} trainable parameters"),
            ("method", f"{options.method}, {rates}, batch {options.batch_size}"),
            (
                "",
                f"{options.dtype}, restore {restore}, {backends.describe(options.device)}, seed {options.seed}",
            ),
            ("folder", str(run.folder.path)),
        ]
    )


def data_facts(task: Task) -> list[tuple[str, str]]:
    """Rows in and out, for the header."""
    lines = [] if task.data is None else task.data.lines()
    return [("" if index else "data", line) for index, line in enumerate(lines)]


def show_resume(run: Run, display: Display) -> None:
    """Says where a resumed run takes up."""
    done, logged = run.done, len(run.logged)
    parts = []
    if done:
        parts.append(f"{done} from the checkpoint")
    if logged:
        parts.append(f"{logged} from the log, without forwards")
    detail = f" ({', '.join(parts)})" if parts else ""
    display.say(f"Resuming after step {done + logged} of {run.options.steps}{detail}.")


def draw(run: Run) -> None:
    """Writes the learning curve of whatever is in the metrics log."""
    options = run.options
    title = f"{run.task.name}: {options.model}, {options.method}, {options.tuning}"
    rate = f"lr {options.lr:g}, batch {options.batch_size}"
    if options.eps is not None:
        rate = f"lr {options.lr:g}, eps {options.eps:g}, batch {options.batch_size}"
    note = f"{rate}, {options.dtype}, seed {options.seed}, {run.trainable:,} trainable parameters"
    with explained(f"drawing {run.folder.file(PLOT)}"):
        plots.learning_curve(run.metrics_log.rows, run.folder.file(PLOT), title, note, prompted(run))


def prompted(run: Run) -> bool:
    """Whether label words are scored, and so whether there is a label prior to speak of."""
    return isinstance(run.model, PromptedClassifier)


def finish(run: Run, result: Result, display: Display) -> dict[str, Any]:
    """Writes weights, curve and summary; prints the closing table; returns the summary."""
    draw(run)
    written = run.folder.write_weights(run.tuned.save)
    steps = sorted(result.evaluations)
    before, after = result.evaluations.get(0), result.evaluations[steps[-1]]
    timed = [r for r in run.metrics_log.rows if r["kind"] == "step" and r["seconds"] is not None]
    seconds = sum(r["seconds"] for r in timed)
    outside = sum(r["seconds_outside_forward"] for r in timed)
    summary = {
        "task": run.task.name,
        "model": run.options.model,
        "method": run.options.method,
        "tuning": run.options.tuning,
        "seed": run.options.seed,
        "steps": run.options.steps,
        "trainable_parameters": run.trainable,
        "forward_passes": forward_passes(run),
        "evaluations_by_epoch": _by_epoch(run),
        "before": None if before is None else before.as_dict(),
        "after": after.as_dict(),
        "train_seconds": seconds,
        "steps_per_second": len(timed) / seconds if seconds else None,
        "share_outside_forwards": outside / seconds if seconds else None,
        "peak_memory_bytes": result.peak_memory,
        "threads": torch.get_num_threads(),
        "label_prior_caveat": CAVEAT if prompted(run) else None,
        "data": None if run.task.data is None else run.task.data.as_dict(),
        "weights": [path.name for path in written],
    }
    run.folder.write_json(SUMMARY, summary)
    rows = [_row(_moment(step, result.evaluations[step], after), result.evaluations[step]) for step in steps]
    display.table(
        f"{run.task.name}, {after.examples} test examples, largest class {100 * after.majority:.1f} %",
        ("", "accuracy", "prior removed", "loss") if prompted(run) else ("", "accuracy", "loss"),
        rows if prompted(run) else [(name, accuracy, loss) for name, accuracy, _, loss in rows],
    )
    if prompted(run):
        display.say(CAVEAT)
    if seconds:
        display.say(
            f"{len(timed)} steps in {format_duration(seconds)}, "
            f"{len(timed) / seconds:.2f} steps/s, {100 * outside / seconds:.1f} % of it outside "
            f"the forwards."
        )
    display.say(f"Written to {run.folder.path}: weights/, {PLOT}, metrics.jsonl, {SUMMARY}")
    return summary


def forward_passes(run: Run) -> float:
    """Forward passes over a batch of the run's size that its steps took; evaluations are not counted."""
    passes = sum(
        row.get("forwards", row["evaluations"]) for row in run.metrics_log.rows if row["kind"] == "step"
    )
    return int(passes) if passes == int(passes) else passes


def _by_epoch(run: Run) -> dict[int, int]:
    """Evaluations a step in each epoch (its last step counts)."""
    return {row["epoch"]: row["evaluations"] for row in run.metrics_log.rows if row["kind"] == "step"}


def _moment(step: int, evaluation: Evaluation, whole: Evaluation) -> str:
    name = f"after {step} steps" if step else "before training"
    return name if evaluation.examples == whole.examples else f"{name} (first {evaluation.examples})"


def _row(name: str, evaluation: Evaluation) -> tuple[str, str, str, str]:
    # +- one standard error of a share
    error = math.sqrt(evaluation.accuracy * (1 - evaluation.accuracy) / evaluation.examples)
    return (
        name,
        f"{100 * evaluation.accuracy:.1f} ± {100 * error:.1f} %",
        f"{100 * evaluation.calibrated_accuracy:.1f} %",
        f"{evaluation.loss:.3f}",
    )
