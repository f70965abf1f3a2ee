"""What `zokern info` and `python -m zokern` print: the backends and their ops."""

from __future__ import annotations

import platform

import torch

from zokern import backends
from zokern.version import __version__

__all__ = ["print_status"]


def print_status() -> None:
    """Prints the backends, what serves and what does not and why, and which op each has. Needs no
    optional package."""
    print(
        f"zokern {__version__}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads\n"
    )
    rows = backends.status()
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
