"""What a task is: examples in two splits, the words of its labels, and how its text is asked.

prompt  "Is the sentiment of this movie review positive or negative?\\nReview: {text}"
answer  "The sentiment is"            + one of the label words, scored by the language-model head
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from zokern.app.tasks.counts import DataReport, Example
from zokern.app.tasks.errors import UserError
from zokern.app.tasks.template import UnknownColumn, columns_named, place_of

__all__ = ["ArrayTask", "Example", "Task", "TextTask", "by_fixed_hash", "shorten"]


@dataclass
class Task:
    """What every task has.

    Args:
        name: as given to `--task`.
        labels: the class names, in the order of the class numbers.
        source: one line saying where the examples come from, for the run's header.
        defaults: options this task prefers where the user gives none (`steps`, `lr`, ...).
        data: what was read and what became of it, where that varies.
    """

    name: str
    labels: tuple[str, ...]
    source: str
    default_model: str = "smollm2"
    defaults: dict[str, Any] = field(default_factory=dict)
    data: DataReport | None = None

    @property
    def train_length(self) -> int:
        raise NotImplementedError

    @property
    def test_labels(self) -> list[int]:
        raise NotImplementedError


@dataclass
class TextTask(Task):
    """Classification of texts.

    Args:
        train, test: the examples; `test` is the same for every seed.
        prompt: the question with `{field}` places, or "" when only the bare text is meaningful.
        answer: what precedes the label word.
        label_words: one word per class, without the leading space.
    """

    train: Sequence[Example] = ()
    test: Sequence[Example] = ()
    prompt: str = "{text}"
    answer: str = ""
    label_words: tuple[str, ...] = ()

    @property
    def train_length(self) -> int:
        return len(self.train)

    @property
    def test_labels(self) -> list[int]:
        return [example.label for example in self.test]

    def check(self) -> None:
        """Raises `UserError` when the parts do not fit each other."""
        if not self.train or not self.test:
            raise UserError(
                f"Task {self.name} has {len(self.train)} training and {len(self.test)} test "
                "examples; both must be at least 1."
            )
        if self.label_words and len(self.label_words) != len(self.labels):
            classes = [] if self.data is None else self.data.classes
            only = [c["name"] for c in classes if c["test"] and not c["train"]]
            raise UserError(
                f"--label-words: Task {self.name} has {len(self.labels)} classes ({', '.join(self.labels)}"
                f"{'; in test rows only: ' + ', '.join(only) if only else ''}) but "
                f"{len(self.label_words)} label words ({', '.join(self.label_words)})."
            )
        known = list(self.train[0].fields)
        try:
            named = columns_named(self.prompt, known)
        except UnknownColumn as error:
            raise UserError(
                f"--prompt: The prompt asks for {{{error.name}}} but task {self.name} has the columns "
                f"{', '.join(sorted(known))}."
            ) from None
        if not named:
            raise UserError(
                f"--prompt: The prompt {self.prompt!r} has no place for the text; use {place_of(sorted(known)[0])}."
            )


@dataclass
class ArrayTask(Task):
    """Classification of feature rows (digits): `x` float32 [n, features], `y` int64 [n]."""

    train_x: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    train_y: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    test_x: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    test_y: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    @property
    def train_length(self) -> int:
        return len(self.train_y)

    @property
    def test_labels(self) -> list[int]:
        return [int(label) for label in self.test_y]


def by_fixed_hash(keys: Sequence[str]) -> list[int]:
    """The order of `keys` by sha256: a shuffle that no seed, version or platform changes."""
    digests = [hashlib.sha256(key.encode()).digest() for key in keys]
    return sorted(range(len(keys)), key=lambda index: (digests[index], index))


def shorten(text: str, max_words: int | None) -> str:
    """The first `max_words` words of a text; None keeps all. Runs of blanks become one."""
    words = text.split()
    return " ".join(words if max_words is None else words[:max_words])
