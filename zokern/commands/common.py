"""What the commands share: their manners and how their options are written."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import typer

from zokern.tasks import UserError, explain_os_error

__all__ = ["make_display", "option", "plain_errors", "words"]


def plain_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Ends `command` with a sentence and an exit code instead of a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            print(f"zokern: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except OSError as error:
            print(f"zokern: {explain_os_error(error, 'using a file')}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("zokern: interrupted.", file=sys.stderr)
            raise typer.Exit(130) from None

    return wrapped


def words(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(w.strip() for w in text.split(",") if w.strip())


def option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def make_display(quiet: bool) -> Any:
    """A `Display`, or the sentence that says what it lacks."""
    try:
        from zokern.training import Display

        return Display(quiet)
    except ImportError:
        raise UserError("This command needs rich: pip install 'zokern[train]'.") from None
