"""Prompt templates: `{column}` stands for a column's text, `{{` and `}}` for braces.

A column's name is taken as it is, whatever it holds: blanks, dots, brackets, braces, any script.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

from zokern.app.tasks.errors import UserError

__all__ = ["columns_named", "fill", "place_of"]


class UnknownColumn(UserError):
    """A template names a column that there is not; `name` is what stands between its braces."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The prompt asks for {{{name}}}.")
        self.name = name


def fill(template: str, fields: Mapping[str, str]) -> str:
    """The template with each `{column}` replaced by its text; braces in a text are text."""
    parts = _parts(template, tuple(fields))
    return "".join(fields[part] if is_column else part for part, is_column in parts)


def columns_named(template: str, columns: Sequence[str]) -> list[str]:
    """The columns that a template has places for, in the order of their places.

    Raises:
        UnknownColumn: a place is for none of `columns`.
        UserError: a brace has no partner.
    """
    return [part for part, is_column in _parts(template, tuple(columns)) if is_column]


def place_of(column: str) -> str:
    """The template that is one column's text."""
    return "{" + column + "}"


@functools.lru_cache(maxsize=64)
def _parts(template: str, columns: tuple[str, ...]) -> list[tuple[str, bool]]:
    """Pieces of a template: (column's name, True) or (text, False)."""
    # longest first: of the columns "a" and "a}b", "{a}b}" means the second
    names = "|".join(re.escape(name) for name in sorted(columns, key=len, reverse=True)) or r"(?!)"
    pattern = re.compile(rf"\{{(?P<name>{names})\}}|(?P<open>\{{\{{)|(?P<close>\}}\}})|(?P<brace>[{{}}])")
    parts: list[tuple[str, bool]] = []
    at = 0
    while (found := pattern.search(template, at)) is not None:
        parts.append((template[at : found.start()], False))
        at = found.end()
        if found["name"] is not None:
            parts.append((found["name"], True))
        elif found["brace"] is None:
            parts.append((found[0][0], False))
        else:
            end = template.find("}", at)
            if found[0] == "}" or end < 0:
                raise UserError(
                    f"--prompt {template!r} is not a template: the {found[0]!r} at character "
                    f"{found.start() + 1} has no partner; a brace that is text is written twice."
                )
            name = template[at:end]
            if name.strip() not in columns:
                raise UnknownColumn(name)
            parts.append((name.strip(), True))
            at = end + 1
    parts.append((template[at:], False))
    return [part for part in parts if part[0] or part[1]]
