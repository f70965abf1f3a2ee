"""The command line: `zokern train`, `zokern compare`, `zokern info`.

A new command is a function in `zokern/app/commands/`; `plain_errors` gives it the house's manners: what
the user can put right is one sentence on stderr and exit code 2, Ctrl-C is exit code 130.
"""

from __future__ import annotations

import typer

from zokern.app.commands import compare, train
from zokern.app.commands.common import plain_errors
from zokern.info import print_status

__all__ = ["app"]

app = typer.Typer(
    name="zokern",
    help="Zeroth-order training: fine-tune models with forward passes only.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _commands() -> None:
    """Keeps `zokern train` a subcommand however many commands there are."""


app.command(help=train.HELP)(train.train)
app.command(help=compare.HELP)(compare.compare)


@app.command()
@plain_errors
def info() -> None:
    """Show the backends: which ops each has, on what, and why another is not available."""
    print_status()
