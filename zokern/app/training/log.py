"""The two logs of a run, both JSON lines, appended and flushed line by line.

    steps.jsonl     {"step": 17, "values": ["0x1.62e4p-1", ...]}      the losses of each evaluation, exact
    metrics.jsonl   {"kind": "step" | "eval", "step": 17, "loss": ..., ...}      for people and plots

A kill at any byte leaves whole lines and perhaps one torn one at the end, which is cut off when the
file is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zokern.app.tasks import UserError, explain_os_error
from zokern.app.training.checkpoint import write_atomically

__all__ = ["LineLog", "decode_values", "encode_values", "read_steps"]


class LineLog:
    """An append-only file of JSON objects.

    Args:
        path: created if missing; a torn last line is removed.

    Attributes:
        rows: what was in the file when it was opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        try:
            content = path.read_bytes() if path.exists() else b""
            good = 0
            while (end := content.find(b"\n", good)) >= 0:
                try:
                    self.rows.append(json.loads(content[good:end]))
                except ValueError:
                    if content.find(b"\n", end + 1) >= 0:
                        number = len(self.rows) + 1
                        raise UserError(f"{path} is damaged at line {number}.") from None
                    break
                good = end + 1
            if good < len(content):
                os.truncate(path, good)
            # Unbuffered: one line is one write to the operating system, which outlives the process.
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise explain_os_error(error, f"opening {path}") from None

    def append(self, row: dict[str, Any]) -> None:
        """Writes one line; it is in the operating system's hands when this returns."""
        try:
            line = json.dumps(row).encode() + b"\n"
            while line:  # a nearly full disk takes a part first, then refuses
                line = line[self._file.write(line) :]
        except OSError as error:
            raise explain_os_error(error, f"writing {self.path}") from None

    def cut(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Leaves out, here and in the file, the rows that `keep` is false for."""
        kept = [row for row in self.rows if keep(row)]
        if len(kept) == len(self.rows):
            return
        self._file.close()
        write_atomically(self.path, b"".join(json.dumps(row).encode() + b"\n" for row in kept))
        self.rows = kept
        try:
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise explain_os_error(error, f"opening {self.path}") from None

    def close(self) -> None:
        self._file.close()


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
    for row in log.rows:
        try:
            number, values = int(row["step"]), decode_values(row["values"])
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{log.path} holds a line that is no step: {row}.") from None
        if steps and number != max(steps) + 1:
            raise UserError(f"{log.path} jumps from step {max(steps)} to step {number}.")
        steps[number] = values
    return steps
