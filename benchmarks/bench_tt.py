"""Tensor-train layers and adapters against plain PyTorch, other packages, and the bare memory traffic.

    python -m benchmarks.bench_tt [--part linear|adapter|peers|peers-adapter] [--threads N] [--quick]

linear   AdaZeta's shapes (table 9), ranks, row counts, dtypes and threads
adapter  y = x + up(relu(down(x))) with a bias in both layers, the same grid
peers    4096 -> 64 and its adapter in fp32 against torch.compile, tensorly-torch, torchTT, opt_einsum
         (the `bench` extra), all with the same weights

Every case is given the cores and contracts them in each call, as it must where they have just been
perturbed; the dense layers are given their weights. In the same run and interleaved:
  plain (xA)B    halves grown inward, two products; 16-bit x in fp32, as accurate as zokern
  plain, lean    the same adapter with one fresh tensor of x's size in place of two (fp32)
  plain, in place, and with none
  rounded (xA)B  the halves rounded to a 16-bit x's dtype, which costs a probe 16 to 29 % of its difference
  materialise    W formed core by core, then x W
  dense          two dense layers with the weights given
  copy, in place x2   y.copy_(x), and x.mul_(c): the memory traffic of an adapter and nothing else
A part replaces its own rows of results/tt.jsonl and keeps the others.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import zokern

from . import tt_cases as tt
from .timing import RESULTS, Timing, Writer, copy_gb_per_second, interleaved, machine_line, saved, table
from .tt_cases import Layer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RANKS, ROWS = (5, 8, 16), (1, 16, 128, 2048)
ADAPTERS = [(4096, 64), (768, 64), (4096, 8), (768, 8)]
PARTS = ("linear", "adapter", "peers", "peers-adapter")
PLAIN = "plain (xA)B"
COMPILED_RANKS = (5, 16)  # a compilation takes 5 to 30 s
FLOORS = ("copy", "in place x2")
TINY = 1e-6  # an adapter that runs a thousand times in place must leave x as it is
Cases = dict[str, Callable[[], Tensor]]


@dataclass(frozen=True)
class Problem:
    """One line of the grid."""

    shape: tuple[int, int]
    rank: int
    rows: int
    dtype: str
    adapter: bool

    @property
    def name(self) -> str:
        hidden, narrow = self.shape
        return f"{hidden}-{narrow}-{hidden}" if self.adapter else f"{hidden}x{narrow}"

    def layers(self) -> list[Layer]:
        down = tt.make_layer(*self.shape, self.rank)
        return [down, tt.make_layer(*self.shape[::-1], self.rank, seed=1)] if self.adapter else [down]

    def x(self) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        return torch.randn(self.rows, self.shape[0], generator=generator).to(DTYPES[self.dtype])


def ours(x: Tensor, layers: list[Layer], out: Tensor | None = None) -> Callable[[], Tensor]:
    if len(layers) == 1:
        (layer,) = layers
        return functools.partial(zokern.tt_linear, x, layer.cores, layer.split, layer.bias, out=out)
    down, up = layers
    return functools.partial(
        zokern.tt_adapter, x, down.cores, up.cores, down_split=down.split, up_split=up.split,
        down_bias=down.bias, up_bias=up.bias, out=out,
    )  # fmt: skip


def linear_cases(problem: Problem) -> Cases:
    (layer,), x = problem.layers(), problem.x()
    cases: Cases = {
        PLAIN: functools.partial(tt.plain_linear, x, layer),
        "materialise": functools.partial(tt.materialised_linear, x, layer),
        "dense": functools.partial(tt.dense_linear(layer, x.dtype), x),
        "zokern": ours(x, [layer]),
    }
    if problem.dtype != "fp32":
        cases["rounded (xA)B"] = functools.partial(tt.rounded_linear, x, layer)
    return cases


def adapter_cases(problem: Problem) -> Cases:
    layers, x = problem.layers(), problem.x()
    down, up = layers
    again, out = x.clone(), torch.empty_like(x)
    cases: Cases = {PLAIN: functools.partial(tt.plain_adapter, x, down, up)}
    if problem.dtype == "fp32":
        cases["plain, lean"] = functools.partial(tt.plain_adapter_lean, x, down, up)
        cases["plain, in place"] = functools.partial(tt.plain_adapter_, x.clone(), down, up.times(TINY))
    else:
        halves = [functools.partial(tt.rounded_linear, layer=layer) for layer in layers]
        cases["rounded (xA)B"] = functools.partial(tt.as_adapter(*halves), x)
    formed = [functools.partial(tt.materialised_linear, layer=layer) for layer in layers]
    cases |= {
        "materialise": functools.partial(tt.as_adapter(*formed), x),
        "dense": functools.partial(tt.as_adapter(*(tt.dense_linear(layer, x.dtype) for layer in layers)), x),
        "zokern": ours(x, layers),
        "zokern out=": ours(x, layers, out),
        "zokern in place": ours(again, [down, up.times(TINY)], again),
        "copy": functools.partial(torch.empty_like(x).copy_, x),
        "in place x2": functools.partial(x.clone().mul_, 1.0),
    }
    return cases


def peer_cases(problem: Problem) -> Cases:
    layers, x = problem.layers(), problem.x()
    made = [tt.peers(layer, problem.rows) for layer in layers]
    cases: Cases = {
        name: functools.partial(tt.as_adapter(*(each[name] for each in made)) if problem.adapter else made[0][name], x)
        for name in made[0]
    }  # fmt: skip
    plain = tt.plain_adapter if problem.adapter else tt.plain_linear
    cases[PLAIN] = functools.partial(plain, x, *layers)
    if problem.rank in COMPILED_RANKS:
        cases["torch.compile"] = functools.partial(tt.compiled(plain), x, *layers)
    cases["zokern"] = ours(x, layers)
    if problem.adapter:
        again = x.clone()
        cases["zokern in place"] = ours(again, [layers[0], layers[1].times(TINY)], again)
    return cases


def gate(problem: Problem, cases: Cases) -> None:
    """No speed is printed of a wrong result: first and last rows against dense weights in float64."""
    layers, x = problem.layers(), problem.x()
    few = torch.cat([x[:4], x[-4:]])
    expected = tt.exact(few, *layers)
    tiny = tt.exact(few, layers[0], layers[1].times(TINY)) if problem.adapter else expected
    for name, run in cases.items():
        if name in FLOORS:
            continue
        y = run()
        got = torch.cat([y[:4], y[-4:]]).double()
        want = tiny if "in place" in name else expected
        error = float((got - want).abs().max() / want.abs().max())
        # two roundings to 8 bits in a 16-bit adapter; two more where halves and W are rounded too
        limit = 1e-5 if problem.dtype == "fp32" else 2e-2 if name in ("dense", "rounded (xA)B") else 8e-3
        assert error <= limit, (problem, name, error)


CASES = {"linear": linear_cases, "adapter": adapter_cases, "peers": peer_cases, "peers-adapter": peer_cases}


def problems(part: str, quick: bool) -> Iterator[Problem]:
    peer, adapter = part.startswith("peers"), part.endswith("adapter")
    shapes = [(4096, 64)] if peer or quick else ADAPTERS if adapter else list(tt.MODES)
    for shape in shapes:
        for dtype in ("fp32",) if peer else DTYPES:
            for rank in (5,) if quick else RANKS:
                for rows in (1, 128) if quick else ROWS:
                    yield Problem(shape, rank, rows, dtype, adapter)


def measure(problem: Problem, part: str, repeats: int) -> dict[str, Timing]:
    cases = CASES[part](problem)
    gate(problem, cases)
    large = problem.rows * max(problem.shape) > 1 << 20
    careful = problem.shape == (4096, 64) and problem.dtype == "fp32"
    seconds = 0.0 if large else 4e-3 if careful else 1.5e-3
    return interleaved(cases, repeats if careful else min(repeats, 5), min_seconds=seconds)


def rows_of(
    problem: Problem, part: str, threads: int, timings: dict[str, Timing], copy: float
) -> Iterator[dict]:
    x, layers = problem.x(), problem.layers()
    moved = tt.nbytes(x, x.shape[1] if problem.adapter else problem.shape[1], *layers)
    for name, t in timings.items():
        speed = moved / t.p50 / 1e9
        yield {
            "op": "tt_adapter" if problem.adapter else "tt_linear", "part": part, "case": problem.name,
            "rank": problem.rank, "rows": problem.rows, "dtype": problem.dtype, "threads": threads,
            "backend": name, "p20": t.p20, "p50": t.p50, "p80": t.p80, "bytes": moved, "gb_per_s": speed,
            "copy_gb_per_s": copy, "percent_of_copy": 100 * speed / copy,
            "ratio_plain": timings[PLAIN].p50 / t.p50, "zokern_faster": t.p50 / timings["zokern"].p50,
        }  # fmt: skip


def show(rows: list[dict], title: str) -> None:
    """Microseconds: a line a rank and row count, a column a case."""
    names = list(dict.fromkeys(r["backend"] for r in rows))
    grid = {(r["rank"], r["rows"], r["backend"]): r for r in rows}
    lines = []
    for rank, count in dict.fromkeys((r["rank"], r["rows"]) for r in rows):
        found = [grid.get((rank, count, name)) for name in names]
        ratio = grid[rank, count, "zokern"]["ratio_plain"]
        cells = ["" if r is None else f"{r['p50'] * 1e6:.{1 if r['p50'] < 1e-4 else 0}f}" for r in found]
        lines.append([f"{rank}, {count}", *cells, f"{ratio:.1f}"])
    print(f"\n{title}, µs")
    print(table(lines, ["rank, N", *names, "plain / zokern"]), flush=True)


def figure(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {
        "tensorly-torch factorized": "#e0e0e0", "torchTT": "#c4c4c4", "opt_einsum, cached": "#a8a8a8",
        "dense": "#d9b38c", PLAIN: "#8c8c8c", "torch.compile": "#6b6b6b", "zokern": "#5aa3d0",
        "zokern in place": "#1f6fb2",
    }  # fmt: skip
    shown = [r for r in rows if r["case"] == "4096-64-4096" and r["threads"] == 1 and r["dtype"] == "fp32"]
    # cases of both parts are shown as the peers' part has them
    values = {(r["rank"], r["rows"], r["backend"]): r["p50"] for r in sorted(shown, key=lambda r: r["part"])}
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained", sharey=True)
    width = 0.86 / len(colours)
    for axis, rank in zip(axes, (5, 16)):
        for n, (name, colour) in enumerate(colours.items()):
            found = [
                (i, values[rank, count, name])
                for i, count in enumerate(ROWS)
                if (rank, count, name) in values
            ]
            xs = [i + (n - len(colours) / 2 + 0.5) * width for i, _ in found]
            heights = [p50 * 1e6 / ROWS[i] for i, p50 in found]
            axis.bar(xs, heights, width, label=name, color=colour)
        axis.set_yscale("log")
        axis.set_xticks(range(len(ROWS)), [f"{n} row{'s' if n > 1 else ''}" for n in ROWS])
        axis.set_title(f"rank {rank}", loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("microseconds a row (log)")
    axes[0].legend(fontsize=8, frameon=False, ncols=2, loc="upper right")
    figure.suptitle("Tensor-train adapter, hidden 4096, bottleneck 64, fp32, one thread", x=0.01, ha="left")
    figure.supxlabel(machine_line(), fontsize=7, color="#555", x=0.01, ha="left")
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--threads", type=int, choices=(1, 2), help="default: both")
    parser.add_argument("--quick", action="store_true", help="one shape, one repeat, no files written")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    path = RESULTS / "tt.jsonl"
    parts = arguments.part or PARTS
    threads_wanted = (arguments.threads,) if arguments.threads else (1, 2)
    kept = [r for r in saved(path) if r["part"] not in parts or r["threads"] not in threads_wanted]
    rows: list[dict] = []
    print(machine_line())
    with Writer("/dev/null") if arguments.quick else Writer(path, kept) as writer:
        for threads in threads_wanted:
            torch.set_num_threads(threads)
            copy = {name: copy_gb_per_second(threads, dtype) for name, dtype in DTYPES.items()}
            for part in parts:
                block: list[dict] = []
                for problem in problems(part, arguments.quick):
                    timings = measure(problem, part, 1 if arguments.quick else arguments.repeats)
                    block += rows_of(problem, part, threads, timings, copy[problem.dtype])
                for row in block:
                    writer.row(**row)
                rows += block
                for case, dtype in dict.fromkeys((r["case"], r["dtype"]) for r in block):
                    some = [r for r in block if (r["case"], r["dtype"]) == (case, dtype)]
                    show(some, f"{part} {case}, {dtype}, {threads} thread(s)")
    if not arguments.quick:
        figure(kept + rows, RESULTS / "tt.png")
        print(f"\nwrote {path} and tt.png")


if __name__ == "__main__":
    main()
