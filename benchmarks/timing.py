"""One clock for all benchmarks: interleaved runs, medians, the machine, and JSON lines.

Machines are shared and noisy, so that cases to be compared run in turn, A B C A B C ..., and their
medians are compared. Absolute seconds are reported with the machine; ratios are what carries over.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import zokern

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """Seconds of one case: quantiles over its runs."""

    p20: float
    p50: float
    p80: float
    runs: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        ordered = sorted(seconds)
        last = len(ordered) - 1
        return cls(
            ordered[round(0.2 * last)], statistics.median(ordered), ordered[round(0.8 * last)], len(ordered)
        )


def interleaved(
    cases: Mapping[str, Callable[[], object]],
    repeats: int = 7,
    *,
    warmup: int = 1,
    min_seconds: float = 0.0,
    synchronize: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Runs the cases in turn `repeats` times.

    Args:
        cases: name to function of no arguments.
        repeats: rounds that count.
        warmup: rounds before, which do not count.
        min_seconds: a case faster than this is run in a loop that takes as long, and averaged.
        synchronize: called before the clock is read: `torch.cuda.synchronize` on a GPU.
    """
    loops = {}
    for name, run in cases.items():
        for _ in range(max(1, warmup)):
            run()
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        once = time.perf_counter() - start
        loops[name] = max(1, round(min_seconds / max(once, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, run in cases.items():
            start = time.perf_counter()
            for _ in range(loops[name]):
                run()
            synchronize()
            seconds[name].append((time.perf_counter() - start) / loops[name])
    return {name: Timing.of(times) for name, times in seconds.items()}


def copy_gb_per_second(threads: int, dtype: torch.dtype = torch.float32, elements: int = 1 << 26) -> float:
    """Bytes read plus written a second by `Tensor.copy_` of a tensor beyond the caches, in GB."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a, b = torch.zeros(elements, dtype=dtype), torch.ones(elements, dtype=dtype)
        timing = interleaved({"copy": lambda: a.copy_(b)}, repeats=5)["copy"]
    finally:
        torch.set_num_threads(before)
    return 2 * a.numel() * a.element_size() / timing.p50 / 1e9


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    return f"{fields.get('model name', 'unknown')} (family {fields.get('cpu family')}, model {fields.get('model')})"


def machine() -> dict[str, Any]:
    """What a figure needs beside it: processor, versions, commit."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "zokern": zokern.__version__,
        "commit": commit.stdout.strip() or None,
        "date": time.strftime("%Y-%m-%d"),
    }


def machine_line() -> str:
    """The machine in one line, for tables and figures."""
    m = machine()
    return f"{m['gpu'] or m['cpu']}, {m['cores']} cores, torch {m['torch']}, {m['date']}"


class Writer:
    """Writes result rows as JSON lines, each with the machine; a run replaces the file's old rows.

    `keep` are rows of the file to write again as they are: those that a partial run does not replace.
    """

    def __init__(self, path: Path | str, keep: Iterable[dict[str, Any]] = ()) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.machine = machine()
        self.file = open(self.path, "w")  # noqa: SIM115
        self.file.writelines(json.dumps(row) + "\n" for row in keep)

    def row(self, **fields: Any) -> None:
        self.file.write(json.dumps({**fields, **self.machine}) + "\n")
        self.file.flush()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()


def saved(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: list[list[str]], header: list[str]) -> str:
    """A Markdown table, padded so that it reads well in a terminal too."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "| " + " | ".join(c.rjust(w) if n else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths))) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if n else "-") for n, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
