"""The table of a comparison: means and standard deviations over seeds."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zokern.app.compare.options import CompareOptions
from zokern.app.methods import FIRST_ORDER_STEP
from zokern.app.tasks import Task, TextTask
from zokern.app.training.checkpoint import write_atomically
from zokern.app.training.display import Display

__all__ = ["aggregate", "notes", "show_table", "write_tables"]

COLUMNS = (
    "run",
    "accuracy",
    "prior removed",
    "forward passes",
    "seconds",
    "peak memory MB",
    "trained parameters",
)


def aggregate(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each label, in the order of the rows: mean and std over the seeds that ended well."""
    table = []
    for label in dict.fromkeys(row["run"] for row in rows):
        runs = [row for row in rows if row["run"] == label]
        good = [row for row in runs if "failed" not in row]
        line: dict[str, Any] = {"run": label, "seeds": len(good), "asked": len(runs)}
        line["failed"] = next((row["failed"] for row in runs if "failed" in row), None)
        for name in ("accuracy", "calibrated_accuracy", "loss", "seconds"):
            line[name] = statistics.fmean(row[name] for row in good) if good else None
            several = len(good) > 1
            line[f"{name}_std"] = statistics.stdev(row[name] for row in good) if several else None
        for name in ("forward_passes", "peak_memory_bytes", "trainable_parameters"):
            line[name] = max((row[name] for row in good), default=None)
        table.append(line)
    return table


def _texts(line: dict[str, Any]) -> tuple[str, ...]:
    if not line["seeds"]:
        return (line["run"], f"failed: {line['failed']}", *[""] * (len(COLUMNS) - 2))

    def percent(name: str) -> str:
        mean, std = line[name], line[f"{name}_std"]
        return f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}") + " %"

    name = line["run"]
    if line["seeds"] < line["asked"]:
        name += f" ({line['seeds']} of {line['asked']} seeds; failed: {line['failed']})"
    return (
        name,
        percent("accuracy"),
        percent("calibrated_accuracy"),
        f"{line['forward_passes']:.0f}",
        f"{line['seconds']:.0f}" if line["seconds"] >= 10 else f"{line['seconds']:.1f}",
        f"{line['peak_memory_bytes'] / 1e6:,.0f}",
        f"{line['trainable_parameters']:,}",
    )


def notes(rows: Sequence[dict[str, Any]], task: Task, options: CompareOptions) -> list[str]:
    """What has to be known to read the table."""
    n = len(task.test_labels)
    labels = task.test_labels
    majority = max(labels.count(label) for label in set(labels)) / n
    best = max((row["accuracy"] for row in rows if "failed" not in row), default=0.5)
    error = 100 * math.sqrt(best * (1 - best) / n)
    said = [
        f"{task.name}, {n} test examples, the largest class {100 * majority:.1f} %. ± is the standard "
        f"deviation over seeds; the sampling error of the test set comes on top of it (±{error:.1f} at the "
        "best accuracy). Runs without ± were made once.",
        f"Budget: {options.forwards} forward passes of {options.batch_size} examples, a first-order step "
        f"counted as {FIRST_ORDER_STEP:g}. Seconds are of training, without loading and testing; memory is the most that the "
        "process held in a training step (baselines: in testing).",
    ]
    if isinstance(task, TextTask) and task.label_words and options.scoring != "head":
        said.append(
            '"Prior removed" is the accuracy at the median threshold. Its value for zero-shot needs no '
            "training: what a method gains below it is calibration of the label words."
        )
    return said


def write_tables(
    folder: Path, rows: Sequence[dict[str, Any]], task: Task, options: CompareOptions
) -> list[Path]:
    """table.md, table.csv and runs.jsonl."""
    table = aggregate(rows)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in _texts(line)) + " |" for line in table]
    markdown = "\n".join(lines) + "\n\n" + "\n".join(notes(rows, task, options)) + "\n"
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    content = {
        "table.md": markdown,
        "table.csv": sheet.getvalue(),
        "runs.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    for name, text in content.items():
        write_atomically(folder / name, text.encode())
    return [folder / name for name in content]


_SHORT = ("run", "accuracy\n%", "prior\nremoved", "forward\npasses", "s", "peak\nMB", "trained\nparams")


def _short(texts: tuple[str, ...]) -> tuple[str, ...]:
    """A row of the table for a terminal of 80 columns."""
    count = int(texts[-1].replace(",", ""))
    trained = (
        f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} k" if count >= 1e4 else str(count)
    )
    return (*(text.removesuffix(" %") for text in texts[:-1]), trained)


def show_table(rows: Sequence[dict[str, Any]], task: Task, options: CompareOptions, display: Display) -> None:
    """Prints what table.md says."""
    table = aggregate(rows)
    title = f"{task.name}, {options.forwards} forward passes of {options.batch_size}"
    ended = [{**line, "failed": None, "asked": line["seeds"]} for line in table if line["seeds"]]
    display.table(title, _SHORT, [_short(_texts(line)) for line in ended])
    for line in table:
        if line["failed"] is not None:
            count = f"{line['asked'] - line['seeds']} of {line['asked']} runs"
            display.say(f"{line['run']}: {count} failed: {line['failed']}")
    for note in notes(rows, task, options):
        display.say(note)
