"""Data files for the tests of `zokern.app.tasks`, written and read back by plain Python."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from zokern.app.tasks import TextTask

Rows = Sequence[tuple[str, str]]

# What a text may look like without being anything else, and what would be lost by guessing.
WORDS_AS_TEXT = [
    *("null", "NULL", "NA", "N/A", "n/a", "None", "nan", "NaN", "-nan", "#N/A", "<NA>", "inf", "undefined"),
    *("0", "007", "1e5", "1.50", "+3", "-0", "1,234", "0x10", "12345678901234567890123", "1_000", "3.0"),
    *(
        "True",
        "false",
        "TRUE",
        "yes",
        "2020-01-01",
        "2020-01-01T00:00:00Z",
        "12:30",
        "[]",
        "{}",
        '"',
        "'",
        "#",
    ),
    *(
        "a # b",
        "a\\b",
        "\\N",
        "=1+1",
        "Grüße",
        "日本",
        "\U0001f600",
        "x\u2028y",
        "x\x85y",
        "x\x0by",
        "x\x1cy",
    ),
]


def written_csv(path: Path, rows: Rows, **dialect: object) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **{"lineterminator": "\n", **dialect})
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    return path


def written_tsv(path: Path, rows: Rows) -> Path:
    """Tabs, no quoting, for rows without tabs and line ends."""
    lines = ["text\tlabel", *("\t".join(row) for row in rows)]
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path


def written_jsonl(path: Path, rows: Rows) -> Path:
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows]
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path


def written_json(path: Path, rows: Rows) -> Path:
    path.write_text(json.dumps([{"text": text, "label": label} for text, label in rows], indent=1))
    return path


def written_parquet(path: Path, rows: Rows) -> Path:
    import pyarrow
    import pyarrow.parquet

    columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


WRITERS: dict[str, Callable[[Path, Rows], Path]] = {
    "csv": written_csv,
    "tsv": written_tsv,
    "jsonl": written_jsonl,
    "json": written_json,
    "parquet": written_parquet,
}


def labelled(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Texts with the labels "a" and "b" in turn."""
    return [(text, "ab"[i % 2]) for i, text in enumerate(texts)]


def found(task: TextTask, split: str | None = None) -> Counter:
    """How often each (text, name of class) is in a task, or in a split of it."""
    examples = {"train": task.train, "test": task.test, None: [*task.train, *task.test]}[split]
    return Counter((*example.fields.values(), task.labels[example.label]) for example in examples)
