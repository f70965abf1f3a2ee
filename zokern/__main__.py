"""`python -m zokern` prints the backends; with arguments it is the `zokern` command."""

from __future__ import annotations

import platform
import sys

__all__ = ["main", "print_status"]


def print_status() -> None:
    """Prints the backends, what serves and what does not and why, and which op each has. Needs no
    optional package."""
    import torch

    import zokern

    print(
        f"zokern {zokern.__version__}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads\n"
    )
    rows = zokern.backends.status()
    width = max(len(row["backend"]) for row in rows)
    for row in rows:
        serves = (
            f"no: {row['unavailable']}"
            if row["unavailable"]
            else ", ".join(filter(None, ("yes", row["detail"])))
        )
        print(f"{row['backend']:{width}}  on {row['device']:4}  {serves}")
    ops = {row["backend"]: row["ops"].split(", ") for row in rows}
    names = sorted({op for own in ops.values() for op in own if op})
    print(f"\n{'op':{max(map(len, names))}}  " + "  ".join(ops))
    for name in names:
        marks = ("yes" if name in own else "-" for own in ops.values())
        cells = (mark.ljust(len(backend)) for mark, backend in zip(marks, ops))
        print(f"{name:{max(map(len, names))}}  " + "  ".join(cells).rstrip())


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
