"""From tables to rows: which columns, their texts and labels, and a word on each row that is not plain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from zokern.app.tasks.counts import Place, SplitReport, named, printable
from zokern.app.tasks.errors import UserError
from zokern.app.tasks.tables import DataError, Table, as_label, as_text, clean_name, find_column, whole_text
from zokern.app.tasks.template import place_of

__all__ = [
    "Row",
    "class_names",
    "column_notes",
    "drop_unlabelled",
    "note_repeats",
    "read_rows",
    "text_columns",
]

UNLABELLED = "-1"  # the hub's convention; GLUE publishes its test sets with it


class Row(NamedTuple):
    """A row's texts by column, its label, and where it stands."""

    fields: dict[str, str]
    label: str
    place: Place

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(self.fields.values())


def text_columns(
    path: str, tables: Sequence[Table], label: str, asked: Sequence[str], prompt: str
) -> list[str]:
    """The names of the text columns of a data set.

    Args:
        path: of the data set, for messages.
        tables: of its train split.
        label: the label's column.
        asked: what the user names; else every column of text, and those that the prompt names.
        prompt: the template.

    Raises:
        UserError: a column is not there, or there is no text.
    """
    names = [n for n in dict.fromkeys(clean_name(n) for table in tables for n in table.names) if n]
    listed = named([repr(n) if "," in n else printable(n) for n in names], len(names), 50)
    for table in tables:
        if find_column(table, label) is None:
            where = f" in {table.name}" if len(tables) > 1 else ""
            raise UserError(
                f"Data set {path} has no label column {label!r}{where}; its columns are {listed}. Name it "
                "with --label-column."
            )
    if asked:
        for name in asked:
            if clean_name(name) not in names:
                raise UserError(
                    f"--text-columns: Data set {path} has no text column {name}; its columns are {listed}."
                )
            if clean_name(name) == clean_name(label):
                raise UserError(f"--text-columns names {name}, which is the label's column.")
        return list(dict.fromkeys(clean_name(name) for name in asked))
    others = [name for name in names if name != clean_name(label)]
    chosen = [name for name in others if place_of(name) in prompt or _textual(tables, name)] or others
    if not chosen:
        raise UserError(f"Data set {path} has no text column beside {label!r}; its columns are {listed}.")
    return chosen


def _textual(tables: Sequence[Table], name: str) -> bool:
    return any(
        table.textual(index)
        for table in tables
        for index, own in enumerate(table.names)
        if clean_name(own) == name
    )


def column_notes(tables: Sequence[Table]) -> list[str]:
    """Sentences on columns whose names are not as they stand in the file."""
    notes = []
    for table in tables:
        empty = [index + 1 for index, name in enumerate(table.names) if not clean_name(name)]
        if empty:
            notes.append(f"{table.name}: columns without a name are left out: {named(empty, len(empty))}")
        for name in table.names:
            if clean_name(name) and name != clean_name(name):
                notes.append(f"{table.name}: column {name!r} is read as {clean_name(name)!r}")
    return notes


def class_names(tables: Sequence[Table], label: str) -> tuple[str, ...]:
    """The names of the classes, where the format has them."""
    for table in tables:
        index = find_column(table, label)
        if index in table.classes:
            return table.classes[index]
    return ()


def read_rows(tables: Sequence[Table], columns: Sequence[str], label: str, report: SplitReport) -> list[Row]:
    """The rows of a split that have a label; the report gets the others, and what was changed.

    Raises:
        DataError: a column is not there, a cell is no text or no label, or there are no rows.
    """
    rows: list[Row] = []
    for table in tables:
        report.sources.append(f"{table.name} ({table.how})")
        report.read += len(table.places)
        for finding in table.findings:
            for place in finding.places:
                report.add(finding.what, finding.reason, place)
            report.add(finding.what, finding.reason, count=finding.count - len(finding.places))
        texts = [_texts(table, column, report) for column in columns]
        labels = _labels(table, label, report)
        for index, found in enumerate(labels):
            if found is not None:
                fields = {column: text[index] for column, text in zip(columns, texts)}
                rows.append(Row(fields, found, table.place(index)))
    if not report.read:
        raise DataError(f"{', '.join(table.name for table in tables)} has no rows.")
    return rows


def _texts(table: Table, column: str, report: SplitReport) -> list[str]:
    index = find_column(table, column)
    if index is None:
        there = ", ".join(clean_name(name) for name in table.names)
        raise DataError(f"{table.name} has no column {column!r}; its columns are {there}.")
    texts = []
    for row, value in enumerate(table.cells(index)):
        try:
            text = as_text(value)
        except ValueError as error:
            raise DataError(
                f"{table.place(row)}, column {column!r}: {error} where a text should be."
            ) from None
        if (whole := whole_text(text)) != text:
            text = whole
            report.add("changed", f"half a surrogate pair in {column!r}, now U+FFFD", table.place(row))
        if value is None:
            report.add("changed", f"nothing in {column!r}, read as an empty text", table.place(row))
        elif not text.strip():
            report.add("noted", f"empty text in {column!r}", table.place(row))
        texts.append(text)
    return texts


def _labels(table: Table, column: str, report: SplitReport) -> list[str | None]:
    index = find_column(table, column)
    if index is None:
        report.add("dropped", f"no column {column!r} in {table.name}", count=len(table.places))
        return [None] * len(table.places)
    classes = table.classes.get(index)
    labels = []
    for row, value in enumerate(table.cells(index)):
        try:
            label = as_label(value, classes)
        except ValueError as error:
            raise DataError(
                f"{table.place(row)}, column {column!r}: the label {_short(value)} is {error}; a label is a "
                "text, a number or a truth value."
            ) from None
        if label is None:
            blank = value is None or not str(value).strip() or value != value
            reason = f"no label in {column!r}" if blank else f"label {value}, which stands for none"
            report.add("dropped", reason, table.place(row))
        elif isinstance(value, str) and value != value.strip():
            report.add("changed", "label without the blanks around it", table.place(row))
        if label is not None and (whole := whole_text(label)) != label:
            label = whole
            report.add("changed", f"half a surrogate pair in {column!r}, now U+FFFD", table.place(row))
        labels.append(label)
    return labels


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


def drop_unlabelled(rows: Sequence[Row], train: Sequence[Row], hub: bool, report: SplitReport) -> list[Row]:
    """The rows of a test split without those labelled -1, where that stands for "no label": no training
    row has it, and the split is the hub's or has nothing else."""
    labels = {row.label for row in rows}
    if UNLABELLED not in labels or any(row.label == UNLABELLED for row in train):
        return list(rows)
    if not hub and labels != {UNLABELLED}:
        return list(rows)
    for row in rows:
        if row.label == UNLABELLED:
            report.add("dropped", f"label {UNLABELLED}, which stands for none", row.place)
    return [row for row in rows if row.label != UNLABELLED]


def note_repeats(rows: Sequence[Row], report: SplitReport) -> None:
    """Notes rows whose texts an earlier row of the split has."""
    labels: dict[tuple[str, ...], str] = {}
    for row in rows:
        if row.texts not in labels:
            labels[row.texts] = row.label
        elif labels[row.texts] == row.label:
            report.add("noted", "texts of an earlier row", row.place)
        else:
            report.add("noted", "texts of an earlier row that has another label", row.place)
