"""What `zokern info` and `python -m zokern` print: the backends and their ops."""

from __future__ import annotations

import platform

import torch

from zokern import backends
from zokern.version import __version__

__all__ = ["print_status"]


def print_status() -> None:
    """Prints which backends serve, why others do not, and which op each has. Needs no optional package."""
    python, threads = platform.python_version(), torch.get_num_threads()
    print(f"zokern {__version__}, Python {python}, torch {torch.__version__}, {threads} threads\n")
    rows = backends.status()
    width = max(len(row["backend"]) for row in rows)
    for row in rows:
        detail = f", {row['detail']}" if row["detail"] else ""
        serves = f"no: {row['unavailable']}" if row["unavailable"] else f"yes{detail}"
        print(f"{row['backend']:{width}}  on {row['device']:4}  {serves}")
    ops = {row["backend"]: row["ops"].split(", ") for row in rows}
    names = sorted({op for own in ops.values() for op in own if op})
    width = max(map(len, names))
    print(f"\n{'op':{width}}  " + "  ".join(ops))
    for name in names:
        cells = [("yes" if name in own else "-").ljust(len(backend)) for backend, own in ops.items()]
        print(f"{name:{width}}  " + "  ".join(cells).rstrip())
