"""What the commands share: their manners, and what they say of an option that --resume would ignore."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import typer

from zokern.app.fields import Option, changed, check_value, flag
from zokern.app.tasks import UserError, explain_os_error

__all__ = ["folder", "make_display", "option", "plain_errors", "refuse_beside_resume"]


def plain_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Ends `command` with a sentence and an exit code instead of a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            print(f"zokern: {_printable(str(error))}", file=sys.stderr)
            raise typer.Exit(2) from None
        except OSError as error:
            print(f"zokern: {explain_os_error(error, 'using a file')}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("zokern: interrupted.", file=sys.stderr)
            raise typer.Exit(130) from None

    return wrapped


def _printable(text: str) -> str:
    """A text in which what a terminal would obey, or cannot show, is written as an escape."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def option(panel: str, text: str, *names: str, **more: Any) -> Any:
    """An option of a command that is none of a run's or a comparison's."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def refuse_beside_resume(options: Any, what: str, *more: str, besides: Collection[str] = ()) -> None:
    """Raises `UserError` when something is asked for that what is resumed would ignore.

    Args:
        options: what was asked for.
        what: "run" or "comparison".
        more: names of further options that were given.
        besides: options that may be given.
    """
    asked = [name for name in changed(options) if name not in besides] + list(more)
    if asked:
        raise UserError(f"--resume takes all options from the {what}; drop {flag(asked[0])}.")


def folder(name: str, value: str | None) -> Path | None:
    """A folder that was typed in.

    Raises:
        UserError: the text cannot be a path.
    """
    check_value(name, value, str | None, Option("", ""))
    return None if value is None else Path(value)


def make_display(quiet: bool) -> Any:
    """A `Display`, or the sentence that says what it lacks."""
    try:
        from zokern.app.training import Display

        return Display(quiet)
    except ImportError:
        raise UserError("This command needs rich: pip install 'zokern[train]'.") from None
