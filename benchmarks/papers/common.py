"""What the scripts share: options, seeds, and one result in three files and an index.

A script computes numbers, draws them and says in a sentence or two what agrees with the paper and what
does not. `Experiment.save` writes results/NAME.json (all numbers), NAME.md (tables) and NAME.png, and
rewrites README.md, the index. Sentences are built from the numbers of the run, so that they cannot outlive
them.

    experiment = Experiment.start(argv, name="least_squares", source="MeZO-SVRG, figure 1a", claim="...")
    data = experiment.numbers(lambda: measure(experiment))
    experiment.save(tables=[...], agrees="...", differs="...", data=data, figure=figure)

A script that goes through `numbers` can be told to `--redraw`: it takes the last run's numbers from its file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..timing import machine_line, table
from .figures import save_png
from .numbers import from_json, plain

T = TypeVar("T")

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"


@dataclass
class Table:
    """A Markdown table under a line that says what it holds."""

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass
class Experiment:
    """One script's run.

    Attributes:
        name: of the script and its files.
        source: paper, and figure or table.
        claim: what the paper says or shows there.
        quick: a run of seconds, which keeps the script alive and means nothing.
        seeds: 0, 1, ...
        out: folder for the files.
        stored: with --redraw, the record of the last run.
        started: on the clock of `time.process_time`: machines are shared, so that seconds are the processor's.
    """

    name: str
    source: str
    claim: str
    quick: bool
    seeds: list[int]
    out: Path
    stored: dict[str, Any] | None = None
    started: float = field(default_factory=time.process_time)

    @classmethod
    def start(
        cls,
        argv: Sequence[str] | None,
        *,
        name: str,
        source: str,
        claim: str,
        description: str | None = None,
        seeds: int = 5,
        quick_seeds: int = 1,
        threads: int = 1,
        redraws: bool = False,
    ) -> Experiment:
        """Reads --quick, --seeds, --out and (`redraws`) --redraw, sets the number of threads, and silences what optimizers say of
        runs that diverge: many do here on purpose, and the tables count them."""
        parser = argparse.ArgumentParser(
            prog=f"python -m benchmarks.papers.{name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--quick", action="store_true", help="seconds; files go to a temporary folder")
        parser.add_argument("--seeds", type=int, help=f"number of seeds, default {seeds}")
        parser.add_argument("--out", type=Path, help="folder for the files, default results/")
        if redraws:
            parser.add_argument("--redraw", action="store_true", help="from the numbers of the last run")
        options = parser.parse_args(argv)
        count = options.seeds
        if count is None:
            count = quick_seeds if options.quick else seeds
        if count < 1:
            parser.error(f"--seeds must be >= 1, got {count}")
        out = options.out
        if out is None:
            out = Path(tempfile.mkdtemp(prefix=f"{name}-")) if options.quick else RESULTS
        torch.set_num_threads(threads)
        warnings.filterwarnings("ignore", message="step .* is skipped", category=RuntimeWarning)
        stored = None
        if redraws and options.redraw:
            stored = json.loads((out / f"{name}.json").read_text())
            count = len(stored["seeds"])
        return cls(name, source, claim, options.quick, list(range(count)), out, stored)

    def numbers(self, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `measure` returns or, with --redraw, the last run's, in the form they have in the file: keys
        are strings, floats have four digits, and nan stands for all that are not finite."""
        return from_json(plain(measure()) if self.stored is None else self.stored["data"])

    def track(self, items: Iterable[T], what: str = "", total: int | None = None) -> Iterable[T]:
        """Goes through `items` behind a progress bar."""
        from rich.progress import track

        what = f"{self.name} {what}".strip()
        return track(items, what, total=total, transient=True, update_period=0.5)

    @contextmanager
    def bar(self, total: float) -> Iterator[Callable[[float, str], None]]:
        """Yields `advance(amount, what)`, for runs of unequal length."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as progress:
            task = progress.add_task(self.name, total=total)
            yield lambda amount, what: progress.update(
                task, advance=amount, description=f"{self.name} {what}"
            )

    def save(
        self, *, tables: Sequence[Table], agrees: str, differs: str, data: dict[str, Any], figure: Any
    ) -> None:
        """Writes the three files and prints the tables; a full run also renews the index."""
        run = self.stored or {
            "seconds": round(time.process_time() - self.started, 1),
            "threads": torch.get_num_threads(),
            "machine": machine_line(),
        }
        self.out.mkdir(parents=True, exist_ok=True)
        record = {
            "name": self.name,
            "source": self.source,
            "claim": self.claim,
            "agrees": agrees,
            "differs": differs,
            "quick": self.quick,
            "seeds": self.seeds,
            **{key: run[key] for key in ("seconds", "threads", "machine")},
            "tables": [vars(t) for t in tables],
            "data": plain(data),
        }
        text = json.dumps(record, indent=1, ensure_ascii=False)
        (self.out / f"{self.name}.json").write_text(_short_lists(text) + "\n")
        (self.out / f"{self.name}.md").write_text(page(record))
        save_png(figure, self.out / f"{self.name}.png")
        for t in tables:
            print(f"\n{t.title}\n{table(t.rows, t.header)}")
        print(
            f"\nAgrees: {agrees}\nDiffers: {differs}\n{self.out / self.name}.png, {run['seconds']:.0f} CPU-seconds"
        )
        if self.out == RESULTS:
            write_index()


def batches(samples: int, batch: int, seed: int) -> Iterator[torch.Tensor]:
    """Indices of mini-batches, drawn with replacement, without end."""
    g = torch.Generator().manual_seed(1_000_003 + seed)
    while True:
        yield from torch.randint(samples, (512, batch), generator=g)


def page(record: dict[str, Any]) -> str:
    """One experiment's Markdown page."""
    lines = [
        f"# {record['name']}: {record['source']}",
        "",
        f"![{record['name']}]({record['name']}.png)",
        "",
        f"The paper: {record['claim']}",
        "",
        f"**Agrees:** {record['agrees']}",
        "",
        f"**Differs:** {record['differs']}",
    ]
    for t in record["tables"]:
        lines += ["", f"{t['title']}:", "", table(t["rows"], t["header"])]
    seeds = ", ".join(map(str, record["seeds"]))
    lines += [
        "",
        f"`python -m benchmarks.papers.{record['name']}`: seeds {seeds}; {record['seconds']:.0f} CPU-seconds on "
        f"{record['threads']} thread(s); {record['machine']}.",
    ]
    return "\n".join(lines) + "\n"


HEAD = """# The papers' experiments

One script a figure or table: `python -m benchmarks.papers.NAME [--quick] [--seeds N]`. Each writes its
numbers, tables and figure to [results](results); this page is put together from them
(`python -m benchmarks.papers`). `--quick` takes seconds and only shows that a script runs; `--redraw`, where a
script has it, starts from the numbers of the last run.

The sentences are made from the numbers of the run. Models and data are those that install as packages, so
that settings differ from the papers' in size; each page says how.
"""


def write_index(folder: Path = RESULTS, path: Path = FOLDER / "README.md") -> str:
    """Renews README.md from the results; returns its text."""
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    parts = [HEAD]
    for r in sorted(records, key=lambda r: (r["source"], r["name"])):
        results = os.path.relpath(folder, path.parent)
        parts.append(
            f"## {r['source']}\n\n"
            f"`python -m benchmarks.papers.{r['name']}` "
            f"([tables and figure]({results}/{r['name']}.md), {len(r['seeds'])} seeds, {r['seconds']:.0f} CPU-seconds)\n\n"
            f"The paper: {r['claim']}\n\n"
            f"**Agrees:** {r['agrees']}\n\n"
            f"**Differs:** {r['differs']}\n\n"
            f"![{r['name']}]({results}/{r['name']}.png)\n"
        )
    text = "\n".join(parts)
    path.write_text(text)
    return text


def _short_lists(text: str) -> str:
    """Lists of numbers on one line each."""
    return re.sub(r"\[\s+([-\d.e+,\snul]+?)\s+\]", lambda m: "[" + " ".join(m.group(1).split()) + "]", text)
