"""`python -m zokern` prints the backends; with arguments it is the `zokern` command."""

from __future__ import annotations

import platform
import sys

__all__ = ["main", "print_status"]


def print_status() -> None:
    """Prints one line per backend, with the versions that matter. Needs no optional package."""
    import torch

    import zokern

    print(
        f"zokern {zokern.__version__}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads"
    )
    rows = zokern.backends.status()
    columns = ("backend", "device", "ops", "detail")
    widths = {c: max(len(c), *(len(row[c]) for row in rows)) for c in columns}
    print("  ".join(c.ljust(widths[c]) for c in columns) + "  available")
    for row in rows:
        available = f"no: {row['unavailable']}" if row["unavailable"] else "yes"
        print("  ".join(row[c].ljust(widths[c]) for c in columns) + f"  {available}")


def main() -> None:
    """The console script."""
    if len(sys.argv) == 1:
        print_status()
        return
    try:
        from zokern.cli import app
    except ImportError as error:
        if error.name != "typer":
            raise
        if sys.argv[1] == "info":
            print_status()
            return
        print("zokern: commands need typer: pip install 'zokern[train]'.", file=sys.stderr)
        raise SystemExit(2) from None
    app()


if __name__ == "__main__":
    main()
