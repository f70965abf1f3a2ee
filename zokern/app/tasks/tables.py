"""A table as it was read, before anything is made of it: names, cells, and where each row stands.

Cells are `str` where the format has text only (csv, tsv). Of json and parquet they are what the format
says: None, bool, int, float, `Written` for a number of a json file, str.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from zokern.app.tasks.counts import Finding, Place
from zokern.app.tasks.errors import UserError

__all__ = ["DataError", "Table", "Written", "as_label", "as_text", "clean_name", "find_column", "whole_text"]


class DataError(UserError):
    """A file is not what it should be; the text names the file and the place in it."""


class Written(str):
    """A number of a json file, in its written form."""


@dataclass
class Table:
    """One file, or one split of a loaded data set.

    Args:
        name: the file's name as messages give it.
        names: the columns' names as they stand there.
        cells: the cells of a column, by its index, in the order of the rows.
        places: the line or row number of each row.
        unit: "line" or "row", of `places`.
        textual: whether a column, by its index, is taken as text where none are asked for.
        classes: column index -> class names, where the format has them (`datasets.ClassLabel`).
        how: how it was read: "21 lines, tab-separated, no quoting, utf-8".
        findings: rows that were read otherwise than they stand there, or left out as no rows.
    """

    name: str
    names: list[str]
    cells: Callable[[int], Sequence[Any]]
    places: Sequence[int]
    unit: str
    textual: Callable[[int], bool]
    how: str
    classes: dict[int, tuple[str, ...]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def place(self, row: int) -> Place:
        return Place(self.name, self.unit, self.places[row])


def clean_name(name: str) -> str:
    """A column's name without the blanks and the byte-order mark around it."""
    return name.strip().strip("\ufeff").strip()


def whole_text(text: str) -> str:
    """A text with U+FFFD for each half of a surrogate pair, which no file and no tokenizer takes."""
    if text.isascii():
        return text
    return "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in text)


def find_column(table: Table, wanted: str) -> int | None:
    """The index of a column, by its clean name; None: there is none.

    Raises:
        DataError: there are several of that name.
    """
    found = [index for index, name in enumerate(table.names) if clean_name(name) == clean_name(wanted)]
    if len(found) > 1:
        which = ", ".join(str(index + 1) for index in found)
        raise DataError(f"{table.name} has {len(found)} columns {wanted!r} (columns {which}).")
    return found[0] if found else None


def as_text(value: Any) -> str:
    """A cell as the text of an example: numbers in their written form, None as the empty text.

    Raises:
        ValueError: it is no text, number or truth value.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (dict, list, tuple, bytes, bytearray)) or hasattr(value, "__array__"):
        raise ValueError(f"a {type(value).__name__}")
    return str(value)


def as_label(value: Any, classes: Sequence[str] | None = None) -> str | None:
    """A cell as the name of a class; None: the row has no label.

    Texts lose the blanks around them. Numbers count by value, so 1.0 is "1". With `classes` a number
    below 0 is the convention of the hub for "no label".

    Raises:
        ValueError: it is no name of a class.
    """
    if value is None:
        return None
    if classes is not None:
        return _of_classes(value, classes)
    if isinstance(value, Written) and value.removeprefix("-").isdecimal():  # json has no leading zeros
        return "0" if value == "-0" else str(value)
    if isinstance(value, (Written, float, Decimal)):
        number = float(value)
        if math.isnan(number):
            return None
        exact = Decimal(str(value)) if math.isfinite(number) else None
        if exact is not None and exact == exact.to_integral_value() and abs(exact.adjusted()) < 40:
            return str(int(exact))
        return repr(number)
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, (bool, int)):
        return str(value)
    raise ValueError(f"a {type(value).__name__}")


def _of_classes(value: Any, classes: Sequence[str]) -> str | None:
    text = value.strip() if isinstance(value, str) else str(int(value) if isinstance(value, bool) else value)
    if not text or text in classes:
        return text or None
    try:
        number = int(text) if text.removeprefix("-").isdecimal() else float(text)
    except ValueError:
        number = math.inf
    if math.isnan(number):
        return None
    if number != number // 1:  # of infinity the quotient is no number
        raise ValueError(f"none of the classes {', '.join(classes[:10])}")
    if number >= len(classes):
        raise ValueError(f"beyond the {len(classes)} classes")
    return None if number < 0 else classes[int(number)]
