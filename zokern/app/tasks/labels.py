"""From the labels of rows to numbered classes.

    names     a text label is its class's name; a number counts by value (1.0 is "1"); true is "True". Where
              every label is written as an integer, with or without ".0", texts count by value too
    order     the format's own (`datasets.ClassLabel`); else by value where all are numbers; else by text
    classes   those of the training rows, then those that only the test rows have

A class that only the test rows have is a class like any other: its rows stay in the test, where a model
that never saw it is mostly wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

__all__ = ["Classes", "number_classes"]

_INTEGER = re.compile(r"(-?[1-9][0-9]*|0)(\.0+)?")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")


class Classes:
    """The classes of a data set.

    Args:
        names: in the order of the class numbers.
        integers: labels written as 1.0 are the class "1".
    """

    def __init__(self, names: Sequence[str], integers: bool) -> None:
        self.names = tuple(names)
        self.integers = integers
        self._numbers = {name: number for number, name in enumerate(names)}

    def name(self, label: str) -> str:
        """The name of a label's class."""
        return label.split(".")[0] if self.integers else label

    def number(self, label: str) -> int:
        return self._numbers[self.name(label)]


def number_classes(train: Sequence[str], test: Sequence[str], given: Sequence[str] = ()) -> Classes:
    """Finds the classes of labels.

    Args:
        train, test: the labels of the rows, without missing ones.
        given: names that the format has, in its order; labels are among them or follow behind.
    """
    if given:
        more = sorted({*train, *test} - {*given})
        return Classes([*given, *more], False)
    labels = {*train, *test}
    integers = bool(labels) and all(_INTEGER.fullmatch(label) for label in labels)
    if integers:
        labels = {label.split(".")[0] for label in labels}
    if all(_NUMBER.fullmatch(label) for label in labels):
        return Classes(sorted(labels, key=lambda label: (Decimal(label), label)), integers)
    return Classes(sorted(labels), integers)
