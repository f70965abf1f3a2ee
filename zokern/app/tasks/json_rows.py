"""Reading json and json lines.

    json lines         an object a line; empty lines are no rows
    json               an array of objects, an object of columns {"text": [...], "label": [...]}, or json
                       lines under that name

Numbers keep their written form. null, and a key that an object lacks, is a missing value; "null" is text.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any, NoReturn

from zokern.app.tasks.counts import Finding, Place
from zokern.app.tasks.delimited import count_lines
from zokern.app.tasks.tables import DataError, Table, Written, whole_text

__all__ = ["read_json"]


class _Twice(ValueError):
    """An object has a key twice, of which one would be lost."""


def read_json(text: str, name: str, encoding: str) -> Table:
    """The table in a text.

    Args:
        text: the decoded file.
        name: of the file, for messages.
        encoding: how it was decoded, for the report.

    Raises:
        DataError: it is empty, it is no json, or its rows are no objects.
    """
    lines = count_lines(text)
    start = text.lstrip()[:1]
    if not start:
        raise DataError(f"{name} is empty.")
    if start == "{":
        whole = _one_object(text)
        if whole is None:
            return _of_lines(text, name, f"{lines:,} lines, json lines, {encoding}")
        if whole and all(isinstance(column, list) for column in whole.values()):
            return _of_columns(whole, name, f"json columns, {encoding}")
        rows = [whole]
    else:
        rows = _parse(text, name, 0)
        if not isinstance(rows, list):
            raise DataError(f"{name} line 1: a row must be a json object, not {_kind(rows)}.")
    for number, row in enumerate(rows, 1):
        _check(row, f"{name} row {number:,}")
    return _table(name, rows, range(1, len(rows) + 1), "row", f"json, {encoding}")


def _one_object(text: str) -> dict[str, Any] | None:
    """The only object of a text; None: there are several, or none that is whole."""
    try:
        value = _decoder.decode(text)
    except (_Twice, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _of_lines(text: str, name: str, how: str) -> Table:
    rows: list[dict[str, Any]] = []
    places: list[int] = []
    empty = Finding("noted", "empty lines, which are no rows")
    # newline=None: U+2028 and its like are letters, not line ends
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if not line.strip():
            empty.add(Place(name, "line", number))
            continue
        row = _parse(line, name, number)
        _check(row, f"{name} line {number:,}")
        rows.append(row)
        places.append(number)
    table = _table(name, rows, places, "line", how)
    table.findings = [empty] if empty.count else []
    return table


def _of_columns(columns: dict[str, list[Any]], name: str, how: str) -> Table:
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        each = ", ".join(f"{key!r} {len(column)}" for key, column in list(columns.items())[:5])
        raise DataError(f"{name}: its columns differ in length ({each}).")
    count = lengths.pop()
    rows = [{key: column[i] for key, column in columns.items()} for i in range(count)]
    return _table(name, rows, range(1, count + 1), "row", how)


def _table(name: str, rows: Sequence[dict[str, Any]], places: Sequence[int], unit: str, how: str) -> Table:
    if not rows:
        raise DataError(f"{name} has no rows.")
    keys = list(dict.fromkeys(key for row in rows for key in row))

    def cells(index: int) -> list[Any]:
        return [row.get(keys[index]) for row in rows]

    def textual(index: int) -> bool:
        return any(isinstance(cell, str) and not isinstance(cell, Written) for cell in cells(index))

    return Table(name, [whole_text(key) for key in keys], cells, places, unit, textual, how)


def _parse(text: str, name: str, line: int) -> Any:
    """A json text; `line` is the file's line that it is, 0 if it is the whole file."""

    def fail(at: int, reason: str) -> NoReturn:
        raise DataError(f"{name} line {at:,} is not json: {reason}.")

    try:
        return _decoder.decode(text)
    except _Twice as error:
        raise DataError(f"{name}{f' line {line:,}' if line else ''}: {error}.") from None
    except json.JSONDecodeError as error:
        fail(line or error.lineno, f"{error.msg} at character {error.colno}")
    except RecursionError:
        fail(line or 1, "it is nested too deeply")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _Twice(
            f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in an object"
        )
    return row


_decoder = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=Written, parse_float=Written, parse_constant=Written
)


def _check(row: Any, place: str) -> None:
    if not isinstance(row, dict):
        raise DataError(f"{place}: a row must be a json object, not {_kind(row)}.")


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "a truth value"
    if isinstance(value, Written):
        return f"the number {value}"
    return "an array" if isinstance(value, list) else "a text" if isinstance(value, str) else "an object"
