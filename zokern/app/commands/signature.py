"""The command line of a dataclass of options: `from_options` gives a function typer's view of it.

    @from_options(TrainOptions, texts, {"quiet": "checkpoint_every"})
    def train(options: TrainOptions, quiet: Annotated[bool, typer.Option()] = False) -> None: ...

Typer reads signatures, so that one is put together from the fields. Tuples are written with commas.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import inspect
import string
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from zokern.app.fields import Option, flag, options_of, shown
from zokern.app.tasks import UserError

__all__ = ["from_options"]

_METAVARS: Mapping[type | None, str] = {int: "INTEGER", float: "FLOAT"}

Texts = Callable[[str], Mapping[str, str]]
Renamed = Mapping[str, tuple[str, Mapping[str, str]]]


def from_options(
    cls: type, texts: Texts, after: Mapping[str, str], renamed: Renamed | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator for a command whose first parameter is an instance of `cls`.

    Args:
        cls: a dataclass whose fields are made by `zokern.app.fields.option`.
        texts: name of a field -> what stands for each `$name` in its help.
        after: parameter of the command besides -> the option it is listed after.
        renamed: old name of an option -> its name now, and its old values with theirs now. Old ones are
            accepted, with a line on stderr.
    """
    renamed = {} if renamed is None else renamed

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(**given: Any) -> None:
            for old in renamed:
                _take_old(old, given.pop(old), given, *renamed[old])
            own = {name: given.pop(name) for name in after}
            command(cls(**_values(cls, given)), **own)

        parameters = {**_parameters(cls, texts), **{name: _hidden(name, *renamed[name]) for name in renamed}}
        extra = dict(inspect.signature(command, eval_str=True).parameters)
        ordered = list(parameters.values())
        for name, place in after.items():
            at = next(i for i, parameter in enumerate(ordered) if parameter.name == place)
            ordered.insert(at + 1, extra[name].replace(kind=inspect.Parameter.KEYWORD_ONLY))
        wrapped.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered}
        return wrapped

    return decorate


def _parameters(cls: type, texts: Texts) -> dict[str, inspect.Parameter]:
    hints = typing.get_type_hints(cls)
    declared = options_of(cls)
    found = {}
    for field in dataclasses.fields(cls):
        option = declared[field.name]
        words = texts(field.name)
        shown = None if option.shown is None else string.Template(option.shown).substitute(words)
        kind, default = _as_typed(option, hints[field.name], field.default)
        info = typer.Option(
            *option.flags,
            help=string.Template(option.help).substitute(words),
            rich_help_panel=option.panel,
            show_default=True if shown is None else shown,
            metavar=_METAVARS.get(_number(hints[field.name])),
        )
        found[field.name] = _parameter(field.name, Annotated[kind, info], default)  # type: ignore[valid-type]
    return found


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _as_typed(option: Option, hint: Any, default: Any) -> tuple[Any, Any]:
    """Type and default of an option as it is typed in. Numbers are read here: typer's error lacks the value."""
    if _number(hint) is not None:
        return str | None, None if default is None else f"{default:g}" if isinstance(default, float) else str(
            default
        )
    if _element(hint) is None:
        return hint, default
    if option.repeated:
        return list[str] | None, None
    if _element(hint) is float:
        return str, ",".join(f"{number:g}" for number in default)
    return str | None, None


def _number(hint: Any) -> type | None:
    """`int` or `float` of an option that takes a number."""
    kinds = (hint, *typing.get_args(hint)) if typing.get_origin(hint) is not tuple else ()
    return next((kind for kind in kinds if kind in (int, float)), None)


def _element(hint: Any) -> type | None:
    """`str` of `tuple[str, ...]` and of `tuple[str, ...] | None`; None of what is no tuple."""
    kinds = [hint, *typing.get_args(hint)]
    return next((typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is tuple), None)


def _values(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was typed in as values of the fields."""
    hints = typing.get_type_hints(cls)
    values = {}
    for field in dataclasses.fields(cls):
        value, element = given[field.name], _element(hints[field.name])
        number = _number(hints[field.name])
        if number is not None and value is not None:
            value = _one_number(flag(field.name), value, number)
        elif element is not None and value is None:
            value = field.default
        elif element is float:
            value = _numbers(flag(field.name), value)
        elif element is not None:
            parts = _parts(flag(field.name), value) if isinstance(value, str) else value
            value = tuple(part.strip() for part in parts if part.strip())
            if not value and given[field.name] not in (None, []):
                raise UserError(f"{flag(field.name)} must name something, got {shown(given[field.name])}.")
        values[field.name] = value
    return values


def _parts(name: str, text: str) -> list[str]:
    """What stands between commas; a part in double quotes may hold commas."""
    try:
        return [part for row in csv.reader([text], skipinitialspace=True) for part in row]
    except csv.Error:
        raise UserError(f"{name} must be words with commas between, got {shown(text)}.") from None


def _one_number(name: str, text: str, kind: type) -> Any:
    try:
        if "_" in text or not text.isascii():
            raise ValueError
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"{name} must be {what}, got {shown(text)}.") from None


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(_one_number(name, part, float) for part in text.split(","))
    except UserError:
        raise UserError(f"{name} must be numbers with commas between, got {shown(text)}.") from None


def _hidden(old: str, now: str, values: Mapping[str, str]) -> inspect.Parameter:
    info = typer.Option(flag(old), hidden=True, help=f"Old name of {flag(now)}.")
    return _parameter(old, Annotated[str | None, info], None)


def _take_old(old: str, value: Any, given: dict[str, Any], now: str, values: Mapping[str, str]) -> None:
    if value is None:
        return
    given[now] = values.get(value, value)
    print(f"zokern: {flag(old)} is deprecated; use {flag(now)} {given[now]}.", file=sys.stderr)
