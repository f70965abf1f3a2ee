"""What the scripts share: options, seeds, colours, and one result in three files and an index.

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
import io
import json
import math
import os
import re
import statistics
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

T = TypeVar("T")

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"

INK, GREY, LIGHT = "#333333", "#8a8a8a", "#e6e6e6"
COLOURS = {
    "MeZO": "#3465a4",
    "MeZO-SVRG": "#c4501b",
    "ZO-SVRG": "#8a5fb0",
    "ZO-AdaMU": "#c4501b",
    "ZO-Adam": "#2f8f5b",
    "ZO-AdamW": "#7fb04f",
    "ZO-AdaMax": "#b8860b",
    "ZO-AdaMM": "#8a5fb0",
    "AdaZeta": "#c4501b",
    "FO-SGD": "#555555",
    "Adam": "#2f8f5b",
    "AdaMax": "#b8860b",
}
"""One colour a method, in all figures."""

BLUES = ("#bcd2ea", "#7ba4d4", "#3465a4", "#1b3a66")
REDS = ("#f3c7b0", "#e2906a", "#c4501b", "#7f2f0c")
"""Light to dark, for a method at several settings."""


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
        return _from_json(_plain(measure()) if self.stored is None else self.stored["data"])

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
            "data": _plain(data),
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


def mean_std(values: Sequence[float], spec: str = ".3g", scale: float = 1.0) -> str:
    """ "0.91 ± 0.02", the standard deviation over seeds; one value stands alone. A run that diverged
    makes the whole "diverged"."""
    values = [scale * v for v in values]
    if not all(math.isfinite(v) for v in values):
        return "diverged"
    if len(values) == 1:
        return f"{values[0]:{spec}}"
    return f"{statistics.fmean(values):{spec}} ± {statistics.stdev(values):{spec}}"


def short(value: float) -> str:
    """ "3e-4": a rate as tables and legends have it."""
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e") if value < 0.01 else f"{value:g}"


def median(values: Sequence[float]) -> float:
    """The median, with values that are not finite counting as the largest."""
    return statistics.median(v if math.isfinite(v) else math.inf for v in values)


def plot(
    width: float = 8.0, height: float = 4.2, columns: int = 1, rows: int = 1, **options: Any
) -> tuple[Any, Any]:
    """A figure and its axes in the house style: a light grid, no frame, ink-coloured text."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, **options)
    for axis in figure.axes:
        axis.grid(color=LIGHT, linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(colors=INK, labelsize=9)
        axis.xaxis.label.set_color(INK)
        axis.yaxis.label.set_color(INK)
        for side in ("top", "left", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes


def title(axis: Any, text: str, note: str = "") -> None:
    """A bold title at the left; the note below it in small grey."""
    axis.set_title(text, loc="left", fontweight="bold", color=INK, fontsize=10.5, pad=18 if note else 6)
    if note:
        axis.text(0, 1.015, note, transform=axis.transAxes, fontsize=8, color=GREY, va="bottom")


def legend(axis: Any, **options: Any) -> None:
    """A legend without a frame."""
    axis.legend(**{"frameon": False, "fontsize": 8.5, "labelcolor": INK, **options})


def save_png(figure: Any, path: Path) -> None:
    """Writes a figure in 256 colours, a third of the bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as image:
        # the other methods of Pillow merge the colours of thin lines
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(path, optimize=True)


def band(
    axis: Any,
    x: Sequence[float],
    runs: Sequence[Sequence[float]],
    label: str,
    colour: str,
    **line: Any,
) -> None:
    """The median over runs as a line, and from the lowest to the highest run as a band."""
    columns = list(zip(*runs))
    axis.fill_between(x, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.15, lw=0)
    axis.plot(x, [median(c) for c in columns], color=colour, label=label, **{"lw": 2.0, **line})


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


def _plain(value: Any) -> Any:
    """Numbers in four digits, and None for what JSON has no number for."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def _from_json(value: Any) -> Any:
    """The inverse: None is nan again."""
    if isinstance(value, dict):
        return {k: _from_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_from_json(v) for v in value]
    return math.nan if value is None else value


def _short_lists(text: str) -> str:
    """Lists of numbers on one line each."""
    return re.sub(r"\[\s+([-\d.e+,\snul]+?)\s+\]", lambda m: "[" + " ".join(m.group(1).split()) + "]", text)
