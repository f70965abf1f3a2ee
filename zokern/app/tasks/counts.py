"""Count in, count out: what was read of a data set, what is used, and what became of the rest.

    rows read = rows used + dropped + held out + left over        in every split

Rows that are used but are not as they stand in the file, or that a reader of the accuracy should
know of, are "changed" and "noted". Each row is named by its file and its line or number.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["DataReport", "Example", "Finding", "Place", "SplitReport", "named", "printable"]

# So many places of one kind are shown, and so many are written down; the total is said with both.
SHOWN, WRITTEN = 5, 100
# What takes a row out of its split; the other findings leave it in.
_TAKEN = ("dropped", "held out", "left over")


@dataclass(frozen=True)
class Example:
    """One labelled text: its named fields ("text", or "premise" and "hypothesis") and its class."""

    fields: dict[str, str]
    label: int


class Place(NamedTuple):
    """Where a row stands: ("train.csv", "line", 7); lines and rows are counted from 1."""

    table: str
    unit: str
    number: int

    def __str__(self) -> str:
        return f"{self.table} {self.unit} {self.number:,}"


def named(places: Sequence[object], total: int, shown: int = SHOWN) -> str:
    """ "a.csv line 3, a.csv line 9 and 12 more": a long list is cut with its total."""
    texts = ", ".join(str(place) for place in places[:shown])
    return texts if total <= shown else f"{texts} and {total - shown:,} more"


def printable(name: str) -> str:
    """A name of the data's as it is shown: quoted where it would not stay in its line."""
    return name if name.isprintable() and name == name.strip() else repr(name)


@dataclass
class Finding:
    """Rows that share a fate.

    Args:
        what: "dropped", "held out" or "left over"; "changed" or "noted".
        reason: why, in a few words.
    """

    what: str
    reason: str
    count: int = 0
    places: list[Place] = field(default_factory=list)

    def add(self, place: Place | None, count: int = 1) -> None:
        self.count += count
        if place is not None and len(self.places) < WRITTEN:
            self.places.append(place)

    def __str__(self) -> str:
        where = f" ({named(self.places, self.count)})" if self.places else ""
        return f"{self.what} {self.count:,}: {self.reason}{where}"


@dataclass
class SplitReport:
    """One split.

    Args:
        name: "train" or "test".
        sources: each file or split it was read from, and how: "train.tsv (21 lines, tabs, no quoting)".
        read: rows in them, headers and empty lines not counted.
        used: rows that are trained or tested on.
    """

    name: str
    sources: list[str] = field(default_factory=list)
    read: int = 0
    used: int = 0
    findings: dict[tuple[str, str], Finding] = field(default_factory=dict)

    def add(self, what: str, reason: str, place: Place | None = None, count: int = 1) -> None:
        if count:
            self.findings.setdefault((what, reason), Finding(what, reason)).add(place, count)

    def cut(self, used: int, option: str) -> None:
        """Notes that an option keeps the first `used` rows."""
        self.add("left over", f"beyond {option}", count=self.used - used)
        self.used = used

    def check(self) -> None:
        """Raises `AssertionError` when a row went missing on the way."""
        taken = sum(found.count for found in self.findings.values() if found.what in _TAKEN)
        if self.read != self.used + taken:
            raise AssertionError(f"{self.name}: {self.read} rows read, {self.used} used, {taken} taken out")

    def lines(self) -> list[str]:
        """What is shown: the sources, the sum, and a line for each finding."""
        first = f"{self.name}: {named(self.sources, len(self.sources), 3)}"
        total = f"{self.name}: {self.read:,} rows read, {self.used:,} used"
        return [first, total, *(f"{self.name}: {found}" for found in self.findings.values())]

    def as_dict(self) -> dict[str, Any]:
        return {
            "sources": self.sources,
            "rows_read": self.read,
            "rows_used": self.used,
            "findings": [
                {
                    "what": found.what,
                    "reason": found.reason,
                    "rows": found.count,
                    "first": [str(place) for place in found.places],
                }
                for found in self.findings.values()
            ],
        }


@dataclass
class DataReport:
    """A data set.

    Args:
        train, test: its splits.
        columns: the text columns.
        notes: sentences on what is not a row: files and splits that are not used, columns without a name.
    """

    train: SplitReport
    test: SplitReport
    columns: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    classes: list[dict[str, Any]] = field(default_factory=list)
    sha256: str = ""

    def settle(self, labels: Sequence[str], train: Sequence[Example], test: Sequence[Example]) -> None:
        """Counts the classes of what is used, takes its checksum, and checks that the sums come out."""
        for report, examples in ((self.train, train), (self.test, test)):
            if report.used != len(examples):
                raise AssertionError(f"{report.name}: {report.used} rows counted, {len(examples)} there")
            report.check()
        counts = [Counter(example.label for example in examples) for examples in (train, test)]
        self.classes = [
            {"name": name, "train": counts[0][number], "test": counts[1][number]}
            for number, name in enumerate(labels)
        ]
        digest = hashlib.sha256()
        for example in (*train, *test):
            digest.update(json.dumps([example.fields, example.label]).encode() + b"\n")
        self.sha256 = digest.hexdigest()

    def lines(self) -> list[str]:
        """What is shown before training."""
        each = [
            f"{printable(c['name'])} ({c['train']:,} to train on, {c['test']:,} to test)"
            for c in self.classes
        ]
        lines = [*self.train.lines(), *self.test.lines(), *self.notes]
        if self.columns:
            lines.append(f"text of {', '.join(map(printable, self.columns))}")
        return [*lines, f"{len(each)} classes: {named(each, len(each), 10)}"]

    def as_dict(self) -> dict[str, Any]:
        """What is written into the run's config and summary."""
        return {
            "train": self.train.as_dict(),
            "test": self.test.as_dict(),
            "text_columns": self.columns,
            "notes": self.notes,
            "classes": self.classes,
            "sha256": self.sha256,
        }
