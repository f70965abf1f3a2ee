"""Options declared once, as fields of a dataclass: their place and words in the help, and what values may be.

    lr: float | None = option(None, "Optimizer", "Learning rate.", shown="by tuning", positive=True)

`zokern.app.commands.signature` makes the command line of such a class, `check_values` its checks.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import re
import types
import typing
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from zokern.app.tasks import UserError, explain_os_error

__all__ = [
    "Option",
    "about",
    "changed",
    "check_value",
    "check_values",
    "flag",
    "in_flags",
    "option",
    "options_of",
    "shown",
]

FP32_MAX = 3.4028234663852886e38


@dataclass(frozen=True)
class Option:
    """How an option is asked for, and which values it takes.

    Args:
        panel: the heading it stands under in the help.
        help: what it does. A `$name` in it, or in `shown`, is filled in by the command.
        flags: as on the command line, where they are not `--name`.
        shown: what stands for the default where that is None.
        choices: the values there are.
        positive, not_negative: bounds of a number.
        most: the largest number; None: what 64 bits hold, of fractions what fp32 holds.
        may_be_empty: an empty text is a value.
        repeated: given once for each value of a list.
    """

    panel: str
    help: str
    flags: tuple[str, ...] = ()
    shown: str | None = None
    choices: tuple[str, ...] = ()
    positive: bool = False
    not_negative: bool = False
    most: float | None = None
    may_be_empty: bool = False
    repeated: bool = False


def option(default: Any, panel: str, help: str, *flags: str, **more: Any) -> Any:
    """A dataclass field that is an option of a command; `more` as in `Option`."""
    return dataclasses.field(default=default, metadata={"option": Option(panel, help, flags, **more)})


def options_of(cls: type) -> dict[str, Option]:
    """Name -> option of a dataclass, in the order of its fields."""
    return {field.name: field.metadata["option"] for field in dataclasses.fields(cls)}


def flag(name: str) -> str:
    """ "lr_schedule" as the command line spells it: "--lr-schedule"."""
    return "--" + name.replace("_", "-")


def in_flags(text: str, names: Collection[str]) -> str:
    """A message of the library with the options of these names as the command line spells them: "evaluation='loop'"
    becomes "--evaluation loop"."""

    def spelled(found: re.Match[str]) -> str:
        name, value = found[1], found[2].strip("'")
        if name not in names:
            return found[0]
        if value in ("True", "False"):
            return flag(name) if value == "True" else flag(f"no_{name}")
        return f"{flag(name)} {value}"

    return re.sub(r"\b([a-z_]+)=('[^']*'|True|False|\d[\w.+-]*)", spelled, text)


def check_values(options: Any) -> None:
    """Raises `UserError` naming the first option whose value is of another kind, or outside its choices or bounds."""
    hints = typing.get_type_hints(type(options))
    for name, declared in options_of(type(options)).items():
        check_value(flag(name), getattr(options, name), hints[name], declared)


def check_value(name: str, value: Any, hint: Any, declared: Option) -> None:
    """Raises `UserError` naming an option whose value is none of `hint`, or not as declared."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return
    kind = next(kind for kind in kinds if kind is not type(None))
    values = [value]
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (tuple, list)):
            raise UserError(f"{name} must be several values, got {shown(value)}.")
        kind, values = typing.get_args(kind)[0], list(value)
    for one in values:
        trouble = _trouble(one, kind, declared)
        if trouble:
            raise UserError(f"{name} must {trouble}, got {shown(one)}.")


def _trouble(value: Any, kind: Any, declared: Option) -> str:
    """What a value must be and is not."""
    if kind is bool:
        return "" if isinstance(value, bool) else "be true or false"
    if kind is str:
        return _trouble_of_text(value, declared)
    number: Any = numbers.Integral if kind is int else numbers.Real
    if not isinstance(value, number) or isinstance(value, bool):
        return "be a whole number" if kind is int else "be a number"
    finite = kind is int or math.isfinite(value)
    if declared.positive and not (finite and value > 0):
        return "be positive"
    if declared.not_negative and not (finite and value >= 0):
        return "not be negative"
    if not finite:
        return "be finite"
    usual = 2**63 - 1 if kind is int else FP32_MAX
    most = usual if declared.most is None else declared.most
    return f"be at most {most:.12g}" if abs(value) > most else ""


def _trouble_of_text(value: Any, declared: Option) -> str:
    if not isinstance(value, str):
        return "be text"
    if declared.choices:
        return "" if value in declared.choices else f"be one of {', '.join(declared.choices)}"
    if not value and not declared.may_be_empty:
        return "not be empty"
    if "\0" in value:
        return "not hold a NUL character"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "be text that can be written as UTF-8"
    return ""


@contextmanager
def about(name: str, value: Any) -> Iterator[None]:
    """Has an error that names no option begin with the one it comes from, and its value."""
    try:
        yield
    except (UserError, OSError) as found:
        error = explain_os_error(found, "using a file") if isinstance(found, OSError) else found
        if name in str(error) or str(error).startswith("--"):
            raise error from None
        text = str(value)
        plain = text.isprintable() and text.strip() == text and len(text) <= 200
        raise UserError(f"{name} {text if plain else shown(text)}: {error}") from None


def shown(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def changed(options: Any) -> list[str]:
    """Names of the options that are not at their defaults."""
    return [
        field.name for field in dataclasses.fields(options) if getattr(options, field.name) != field.default
    ]
