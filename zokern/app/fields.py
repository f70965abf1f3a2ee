"""Options declared once, as fields of a dataclass: their place and words in the help, and what values may be.

    lr: float | None = option(None, "Optimizer", "Learning rate.", shown="by tuning", positive=True)

`zokern.app.commands.signature` makes the command line of such a class, `check_values` its checks.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from zokern.app.tasks import UserError

__all__ = ["Option", "changed", "check_values", "flag", "option", "options_of"]


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
        repeated: given once for each value of a list.
    """

    panel: str
    help: str
    flags: tuple[str, ...] = ()
    shown: str | None = None
    choices: tuple[str, ...] = ()
    positive: bool = False
    not_negative: bool = False
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


def check_values(options: Any) -> None:
    """Raises `UserError` naming the first option whose value is outside its choices or bounds."""
    for name, declared in options_of(type(options)).items():
        value = getattr(options, name)
        if value is None:
            continue
        if declared.choices and value not in declared.choices:
            raise UserError(f"{flag(name)} must be one of {', '.join(declared.choices)}, got {value!r}.")
        if declared.positive and not (math.isfinite(value) and value > 0):
            raise UserError(f"{flag(name)} must be positive, got {value!r}.")
        if declared.not_negative and not (math.isfinite(value) and value >= 0):
            raise UserError(f"{flag(name)} must not be negative, got {value!r}.")


def changed(options: Any) -> list[str]:
    """Names of the options that are not at their defaults."""
    return [
        field.name for field in dataclasses.fields(options) if getattr(options, field.name) != field.default
    ]
