"""The two logs of a run, both JSON lines, appended and flushed line by line.

    steps.jsonl     {"format": 2, "config": {...}, "options": {...}, "check": "..."}      see `seal.py`
                    {"step": 17, "values": ["0x1.62e4p-1", ...], "check": "..."}      the losses of each
                    evaluation, exact
    metrics.jsonl   {"kind": "step" | "eval", "step": 17, "loss": ..., ..., "check": "..."}      for people and
                    plots

The `check` of a line of steps.jsonl is the start of the SHA-256 of the line before's `check` and of the line without
its own: a line that is changed, left out, moved or repeated does not follow from the one before. The lines of
metrics.jsonl follow from the first line of steps.jsonl, each by itself. A kill at any byte leaves
whole lines and perhaps one torn one at the end, which is cut off when the file is written to again. Earlier
releases wrote no checks; their logs are read and continued without.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zokern.app.tasks import UserError, explain_os_error
from zokern.app.training.checkpoint import write_atomically

__all__ = ["LineLog", "MetricRows", "decode_values", "encode_values", "read_steps"]

_CHECK = re.compile(rb', "check": "([0-9a-f]{16})"\}\Z')


def _line(row: dict[str, Any], before: str | None) -> tuple[bytes, str | None]:
    """A row as a line, and its check."""
    text = json.dumps(row).encode()
    if before is None:
        return text + b"\n", None
    check = hashlib.sha256(before.encode() + text).hexdigest()[:16]
    return text[:-1] + f', "check": "{check}"}}\n'.encode(), check


class LineLog:
    """An append-only file of JSON objects. Nothing is written before the first `append` or `cut`.

    Args:
        path: created by the first `append` if missing.
        start: what the check of the first line follows from; None: lines have no checks.
        chained: each line's check follows from the line before; else from `start` as the first one's.
        row_is_good: what else must hold of a row.
        keep_whole_lines: take the lines before damaged ones instead of raising.

    Attributes:
        rows: what was in the file when it was opened, without the checks.
        first: the check of the first line.
        checks: the check of each step's line, those since included.
        damage: a sentence on lines that are not taken, or "".

    Raises:
        UserError: a line that is not the last is damaged, or the file cannot be read.
    """

    def __init__(
        self,
        path: Path,
        start: str | None = None,
        chained: bool = True,
        row_is_good: Callable[[dict[str, Any]], bool] = lambda row: True,
        keep_whole_lines: bool = False,
    ) -> None:
        self.path, self.start, self.chained, self.damage = path, start, chained, ""
        self.rows: list[dict[str, Any]] = []
        self.first: str | None = None
        self.checks: dict[int, str] = {}
        self._last, self._good, self._file = start, 0, None  # type: str | None, int, Any
        self._row_is_good = row_is_good
        try:
            content = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise explain_os_error(error, f"reading {path}") from None
        while (end := content.find(b"\n", self._good)) >= 0:
            line = content[self._good : end]
            reason = self._take(line)
            if reason:
                number, after = len(self.rows) + 1, content.count(b"\n", end + 1)
                where = f"{path} is damaged at line {number}"
                if after and not keep_whole_lines:
                    raise UserError(
                        f"{where}: {reason}. Nothing was changed. Put the file back as it was, or start over "
                        "with --overwrite."
                    )
                rest = f" and the {after} after it" if after else ""
                self.damage = f"{where}: {reason}. That line{rest} cannot be used."
                break
            self._good = end + 1

    def _take(self, line: bytes) -> str:
        """Adds a line's row, or says what is wrong with it."""
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return "it is no JSON"
        if not isinstance(row, dict):
            return "it is no JSON object"
        if self.start is not None:
            found = _CHECK.search(line)
            bare = line[: found.start()] + b"}" if found else line
            expected = hashlib.sha256(str(self._last).encode() + bare).hexdigest()[:16]
            if found is None or found[1].decode() != expected:
                return "its checksum does not fit" + (
                    "; it was changed, or lines were left out, moved or repeated here" if self.chained else ""
                )
            del row["check"]
            self._follow(row, expected)
        if not self._row_is_good(row):
            return "it lacks values, has others than it can have, or is not in its place"
        self.rows.append(row)
        return ""

    def append(self, row: dict[str, Any]) -> None:
        """Writes one line; it is in the operating system's hands when this returns."""
        content, check = _line(row, self._last)
        try:
            if self._file is None:
                self._trim()
                # Unbuffered: one line is one write to the operating system, which outlives the process.
                self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
            left = content
            while left:  # a nearly full disk takes a part first, then refuses
                left = left[self._file.write(left) :]
        except OSError as error:
            raise explain_os_error(error, f"writing {self.path}") from None
        self._good += len(content)
        self._follow(row, check)

    def _trim(self) -> None:
        """Cuts off a torn line."""
        try:
            if self.path.exists() and self.path.stat().st_size > self._good:
                os.truncate(self.path, self._good)
        except OSError as error:
            raise explain_os_error(error, f"writing {self.path}") from None

    def _follow(self, row: dict[str, Any], check: str | None) -> None:
        """Notes a line that is now the last."""
        if self.chained:
            self._last = check
        self.first = self.first or check
        if check is not None and "step" in row:
            self.checks[row["step"]] = check

    def sync(self) -> None:
        """Waits until the lines are on the disk."""
        try:
            if self._file is not None:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise explain_os_error(error, f"writing {self.path}") from None

    def cut(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Leaves out, here and in the file, the rows that `keep` is false for, and lines that were not taken."""
        kept = [row for row in self.rows if keep(row)]
        self.close()
        if len(kept) == len(self.rows):
            return self._trim()
        content, self._last, self.checks = b"", self.start, {}
        for row in kept:
            line, check = _line(row, self._last)
            self._follow(row, check)
            content += line
        write_atomically(self.path, content)
        self.rows, self._good = kept, len(content)

    def again(self) -> LineLog:
        """The log as it is on the disk now."""
        return LineLog(self.path, self.start, self.chained)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def encode_values(values: list[float]) -> list[str]:
    """Floats as hexadecimal text, exact: NaN and infinities too."""
    return [float(value).hex() for value in values]


def decode_values(texts: list[str]) -> list[float]:
    return [float.fromhex(text) for text in texts]


def read_steps(log: LineLog) -> dict[int, list[float]]:
    """The logged steps, as step -> closure values.

    Raises:
        UserError: the numbers do not run on, which no kill can cause.
    """
    steps: dict[int, list[float]] = {}
    last = None
    for row in log.rows:
        if "options" in row:
            continue
        try:
            number, values = row["step"], decode_values(row["values"])
            if not isinstance(number, int):
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(f"{log.path} holds a line that is no step: {str(row)[:200]}.") from None
        if last is not None and number != last + 1:
            raise UserError(f"{log.path} jumps from step {last} to step {number}.")
        steps[number], last = values, number
    return steps


_SHARES = ("accuracy", "calibrated_accuracy", "majority")


class MetricRows:
    """Whether a row may be the next of metrics.jsonl: it holds what is read of it, and no step comes back."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()
        self.step = 0

    def __call__(self, row: dict[str, Any]) -> bool:
        if not _is_metric(row) or row["step"] < self.step or (row["kind"], row["step"]) in self.seen:
            return False
        self.step = row["step"]
        self.seen.add((row["kind"], row["step"]))
        return True


def _is_metric(row: dict[str, Any]) -> bool:
    if not (_is_number(row.get("step"), 0, 1 << 53) and isinstance(row["step"], int)):
        return False
    if row.get("kind") == "step":
        counts = [row.get(name) for name in ("epoch", "evaluations")]
        times = [
            row.get(name)
            for name in ("loss", "seconds", "seconds_outside_forward")
            if row.get(name) is not None
        ]
        return all(_is_number(value) for value in (*counts, *times, row.get("forwards", 0)))
    return (
        row.get("kind") == "eval"
        and isinstance(row.get("predicted"), list)
        and all(_is_number(row.get(name), 0, 1) for name in _SHARES)
        and _is_number(row.get("examples"), 1)
        and isinstance(row.get("loss"), float)
    )


def _is_number(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and least <= value <= most
