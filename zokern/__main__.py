"""`python -m zokern` prints the backends; with arguments it is the `zokern` command."""

from __future__ import annotations

import sys

from zokern.info import print_status

__all__ = ["main", "print_status"]


def main() -> None:
    """The console script."""
    if len(sys.argv) == 1:
        return print_status()
    try:
        from zokern.app.cli import app
    except ImportError as error:
        if error.name != "typer":
            raise
        if sys.argv[1] == "info":
            return print_status()
        print("zokern: commands need typer: pip install 'zokern[train]'.", file=sys.stderr)
        raise SystemExit(2) from None
    app()


if __name__ == "__main__":
    main()
