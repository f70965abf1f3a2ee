"""Reading csv and tsv.

    csv   RFC 4180: commas; a cell in double quotes may hold commas, line ends and doubled quotes
    tsv   tabs; a quote is a letter like any other, unless the file plainly uses quoting, which is when
          its header is in quotes, or splitting at tabs does not give every line the header's number of
          cells while RFC 4180 with tabs does, or each cell with a quote in it is in quotes and one of
          them holds a doubled quote

A line ends at LF, CRLF or CR. Every cell is text: "007", "NA" and "null" are what they say. Empty lines
are no rows. A row with another number of cells than the header is an error, but for empty cells at
its end.
"""

from __future__ import annotations

import csv
import io
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from zokern.app.tasks.counts import Finding, Place, named
from zokern.app.tasks.tables import DataError, Table, clean_name

__all__ = ["count_lines", "read_delimited"]

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
# A column of these and of numbers is not taken as text unless it is asked for.
_VALUES = {"", "true", "false", "na", "n/a", "nan", "null", "none"}
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_FIELD_LIMIT = threading.Lock()


@dataclass
class _Grid:
    """Rows of cells with the line each begins on; the header is the first."""

    rows: list[list[str]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)  # lines without anything
    long: list[int] = field(default_factory=list)  # rows that go over several lines


def read_delimited(text: str, name: str, tabs: bool, encoding: str) -> Table:
    """The table in a text.

    Args:
        text: the decoded file.
        name: of the file, for messages.
        tabs: tsv instead of csv.
        encoding: how it was decoded, for the report.

    Raises:
        DataError: it is empty, a row is ragged, or quotes do not close.
    """
    lines = count_lines(text)
    if not tabs:
        grid, how = _quoted(text, name, ","), "comma-separated, quotes by RFC 4180"
    else:
        grid, how = _tabs(text, name)
    if not grid.rows:
        raise DataError(f"{name} is empty.")
    header = grid.rows[0]
    width = max((i + 1 for i, cell in enumerate(header) if clean_name(cell)), default=0)
    if not width:
        raise DataError(f"{name} line {grid.starts[0]}: the header has no names.")
    if not tabs and len(header) == 1 and (found := re.search(r"[;\t|]", header[0])):
        raise DataError(
            f"{name} line {grid.starts[0]}: the header {header[0]!r} has no comma, but {found[0]!r}; the "
            "cells of a .csv file are separated by commas, those of a .tsv file by tabs."
        )
    table = _table(grid, name, width)
    table.how = f"{lines:,} lines, {how}, {encoding}"
    _refuse_ragged(grid, name, header[:width], len(header), tabs)
    return table


def count_lines(text: str) -> int:
    """Lines of a text, counted by their ends: LF, CRLF or CR; a last one without an end counts."""
    ends = text.count("\n") + text.count("\r") - text.count("\r\n")
    return ends + (bool(text) and text[-1] not in "\r\n")


def _table(grid: _Grid, name: str, width: int) -> Table:
    header, rows = grid.rows[0], grid.rows[1:]

    def cells(index: int) -> list[str]:
        return [row[index] if index < len(row) else "" for row in rows]

    def textual(index: int) -> bool:
        return any(not _is_value(cell) for cell in cells(index))

    table = Table(name, list(header), cells, grid.starts[1:], "line", textual, "")
    for what, reason, lines in (
        ("noted", "rows over several lines, by their quotes", grid.long),
        ("noted", "empty lines, which are no rows", grid.empty),
    ):
        if lines:
            finding = Finding(what, reason)
            for line in lines:
                finding.add(Place(name, "line", line))
            table.findings.append(finding)
    return table


def _is_value(cell: str) -> bool:
    """Whether a cell may stand in a column of numbers or truth values."""
    return cell.strip().lower() in _VALUES or bool(_NUMBER.fullmatch(cell))


def _refuse_ragged(grid: _Grid, name: str, header: Sequence[str], allowed: int, tabs: bool) -> None:
    wrong = []
    for row, start in zip(grid.rows[1:], grid.starts[1:]):
        if len(row) < len(header) or any(cell for cell in row[allowed:]):
            wrong.append(f"line {start:,} has {len(row)}")
    if wrong:
        names = ", ".join(clean_name(cell) for cell in header[:10])
        sign = "" if tabs else "; a cell that holds a comma is written in quotes"
        raise DataError(
            f"{name}: the header has {len(header)} cells ({names}), but {named(wrong, len(wrong))}{sign}."
        )


def _tabs(text: str, name: str) -> tuple[_Grid, str]:
    """A tsv text, and how it was read."""
    plain = _plain(text)
    if not plain.rows:
        return plain, ""
    without = "tab-separated, no quoting"
    if '"' not in text:
        return plain, without
    header = plain.rows[0]
    if all(_QUOTED.fullmatch(cell.strip()) for cell in header if cell.strip()):
        return _quoted(text, name, "\t"), "tab-separated, quotes by RFC 4180 (the header is in quotes)"
    if any(len(row) != len(header) for row in plain.rows):
        try:
            quoted = _quoted(text, name, "\t")
        except DataError:
            return plain, without
        if all(len(row) == len(header) for row in quoted.rows):
            reason = "cells in quotes hold tabs or line ends"
            return quoted, f"tab-separated, quotes by RFC 4180 ({reason})"
        return plain, without
    with_quotes = [cell for row in plain.rows for cell in row if '"' in cell]
    doubled = any('""' in cell[1:-1] for cell in with_quotes)
    if doubled and all(_QUOTED.fullmatch(cell) for cell in with_quotes):
        reason = "cells in quotes hold doubled quotes"
        return _quoted(text, name, "\t"), f"tab-separated, quotes by RFC 4180 ({reason})"
    return plain, without


def _plain(text: str) -> _Grid:
    grid = _Grid()
    # newline=None: a line ends at LF, CRLF or CR and nowhere else
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        line = line.rstrip("\n")
        if line.strip() or ("\t" in line and grid.rows):  # of tabs only: a row of empty cells
            grid.rows.append(line.split("\t"))
            grid.starts.append(number)
        else:
            grid.empty.append(number)
    return grid


def _quoted(text: str, name: str, delimiter: str) -> _Grid:
    grid = _Grid()
    # newline="": the line ends of a quoted cell stay as they are
    source = io.StringIO(text, newline="")
    with _long_fields():
        reader = csv.reader(source, delimiter=delimiter, strict=True)
        while True:
            start = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                raise DataError(_explain(str(error), name, start, reader.line_num, delimiter)) from None
            if not row or (len(row) == 1 and not row[0].strip() and delimiter not in row[0]):
                grid.empty.append(start)
                continue
            if reader.line_num > start:
                grid.long.append(start)
            grid.rows.append(row)
            grid.starts.append(start)
        assert reader.line_num == count_lines(text)
    return grid


def _explain(error: str, name: str, start: int, line: int, delimiter: str) -> str:
    """What the csv module says, for people."""
    if "end of data" in error:
        return f"{name}: the quoted cell of the row that begins at line {start:,} has no closing quote."
    if "expected after" in error:
        where = f"{name} line {line:,}" + (f", in the row from line {start:,}" if line != start else "")
        sign = "tab" if delimiter == "\t" else "comma"
        return (
            f"{where}: a {sign} or the line's end must follow a closing quote; a quote inside a quoted cell is "
            "written twice."
        )
    return f"{name} line {line:,}: {error}."


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lets the csv module read fields of any length; its limit is one for the process."""
    with _FIELD_LIMIT:
        before = csv.field_size_limit(sys.maxsize)
        try:
            yield
        finally:
            csv.field_size_limit(before)
