"""One perturbation pass, p <- p + scale * z(seed), against what is used today and what is possible.

    python -m benchmarks.bench_perturb [--quick]

Peers, in the same run and interleaved:
  normal+add_       per tensor: torch.normal, then Tensor.add_ (z of the whole tensor in memory)
  MeZO expression   per tensor: p.data = p.data + scale * z * eps, as published trainers write it
  floor             `torch._foreach_add_` of a constant: the in-place read and write alone. For 16 bits
                    on the same bytes as int32, because PyTorch's 16-bit add is itself compute-bound
  _foreach_add_     that 16-bit add
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import zokern
from zokern.backends import available_isas

from .cases import PERTURB_CASES, moved_bytes, weights
from .timing import RESULTS, Timing, Writer, copy_gb_per_second, interleaved, machine_line, table

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SCALE = 1e-3


def normal_add(params: list[Tensor]) -> None:
    for p in params:
        z = torch.normal(mean=0.0, std=1.0, size=p.shape, dtype=p.dtype, device=p.device)
        p.add_(z, alpha=SCALE)


def mezo_expression(params: list[Tensor]) -> None:
    for p in params:
        z = torch.normal(mean=0.0, std=1.0, size=p.data.size(), device=p.device, dtype=p.dtype)
        p.data = p.data + 1.0 * z * SCALE


def floor(params: list[Tensor]) -> None:
    torch._foreach_add_(params, 0)


def ours(params: list[Tensor], isa: str | None, **keywords: object) -> None:
    with zokern.use_backend("cpu", isa=isa):
        zokern.perturb_(params, 7, SCALE, **keywords)  # type: ignore[arg-type]


def gate(dtype: torch.dtype) -> None:
    """No speed is printed of a kernel that is wrong."""
    start = weights([(10_007,), (33, 5)], dtype)
    for isa in available_isas():
        expected, actual = ([p.clone() for p in start] for _ in range(2))
        with zokern.use_backend("reference"):
            zokern.perturb_(expected, 7, SCALE)
        ours(actual, isa)
        assert all(torch.equal(a, e) for a, e in zip(actual, expected)), (isa, dtype)


def cases(params: list[Tensor], dtype_name: str, isas: list[str]) -> dict[str, Callable[[], object]]:
    """Everything that is timed on a list of weights, by name."""
    out = [torch.empty_like(p) for p in params]
    sixteen = dtype_name != "fp32"
    whole_words = [p.view(-1).view(torch.int32) for p in params] if sixteen else params
    found: dict[str, Callable[[], object]] = {
        "normal+add_": functools.partial(normal_add, params),
        "MeZO expression": functools.partial(mezo_expression, params),
        "floor": functools.partial(floor, whole_words),
        **{f"zokern {isa}": functools.partial(ours, params, isa) for isa in isas},
        "zokern rademacher": functools.partial(ours, params, None, distribution="rademacher"),
        "zokern out=": functools.partial(ours, params, None, out=out),
    }
    if sixteen:
        found["_foreach_add_"] = functools.partial(floor, params)
        found["zokern stochastic"] = functools.partial(ours, params, None, rounding="stochastic")
    return found


def measure(name: str, dtype_name: str, threads: int, repeats: int) -> tuple[dict[str, Timing], int]:
    torch.set_num_threads(threads)
    params = weights(PERTURB_CASES[name], DTYPES[dtype_name])
    isas = available_isas() if len(params) > 1 else available_isas()[-1:]
    return interleaved(cases(params, dtype_name, isas), repeats), moved_bytes(params)


def figure(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [r for r in rows if r["case"].startswith("gpt2")]
    groups = sorted(
        {(r["dtype"], r["threads"]) for r in shown}, key=lambda g: (list(DTYPES).index(g[0]), g[1])
    )
    names = ["MeZO expression", "normal+add_", "zokern portable", "zokern avx2", "zokern avx512", "floor"]
    colours = ["#c9c9c9", "#8c8c8c", "#a6cee3", "#5aa3d0", "#1f6fb2", "#f0a202"]
    figure, axis = plt.subplots(figsize=(10, 4.6), layout="constrained")
    width = 0.8 / len(names)
    for n, (name, colour) in enumerate(zip(names, colours)):
        values = {(r["dtype"], r["threads"]): r for r in shown if r["backend"] == name}
        xs = [i + (n - len(names) / 2 + 0.5) * width for i, g in enumerate(groups) if g in values]
        bars = axis.bar(
            xs, [values[g]["p50"] * 1e3 for g in groups if g in values], width, label=name, color=colour
        )
        axis.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)
    axis.set_yscale("log")
    axis.set_xticks(range(len(groups)), [f"{d}, {t} thread{'s' if t > 1 else ''}" for d, t in groups])
    axis.set_ylabel("milliseconds a pass (log)")
    axis.set_title("One perturbation pass over GPT-2 small (124.4 M weights, 148 tensors)", loc="left")
    axis.text(0, -0.13, machine_line(), transform=axis.transAxes, fontsize=7, color="#555")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(ncols=6, fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.0))
    axis.set_ylim(top=axis.get_ylim()[1] * 2.5)
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one repeat, GPT-2 list only, no files written")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    repeats = 1 if arguments.quick else arguments.repeats
    rows: list[dict] = []
    print(machine_line())
    with Writer("/dev/null" if arguments.quick else RESULTS / "perturb.jsonl") as writer:
        for dtype_name, dtype in DTYPES.items():
            gate(dtype)
            for threads in (1, 2):
                copy = copy_gb_per_second(threads, dtype)
                for name in list(PERTURB_CASES)[: 1 if arguments.quick else None]:
                    timings, nbytes = measure(name, dtype_name, threads, repeats)
                    for backend, t in timings.items():
                        row = {
                            "op": "perturb_", "case": name, "dtype": dtype_name, "threads": threads,
                            "backend": backend, "p20": t.p20, "p50": t.p50, "p80": t.p80, "bytes": nbytes,
                            "gb_per_s": nbytes / t.p50 / 1e9, "copy_gb_per_s": copy,
                            "percent_of_copy": 100 * nbytes / t.p50 / 1e9 / copy,
                            "percent_of_floor": 100 * timings["floor"].p50 / t.p50,
                            "ratio_normal_add": timings["normal+add_"].p50 / t.p50,
                            "ratio_mezo_expression": timings["MeZO expression"].p50 / t.p50,
                        }  # fmt: skip
                        rows.append(row)
                        writer.row(**row)
                    shown = [
                        [
                            backend, f"{t.p50 * 1e3:.1f}", f"{nbytes / t.p50 / 1e9:.1f}",
                            f"{100 * nbytes / t.p50 / 1e9 / copy:.0f}", f"{100 * timings['floor'].p50 / t.p50:.0f}",
                            f"{timings['normal+add_'].p50 / t.p50:.1f}", f"{timings['MeZO expression'].p50 / t.p50:.1f}",
                        ]
                        for backend, t in timings.items()
                    ]  # fmt: skip
                    print(f"\n{name}, {dtype_name}, {threads} thread(s)")
                    header = ["", "ms", "GB/s", "% copy", "% floor", "x normal+add_", "x MeZO"]
                    print(table(shown, header), flush=True)
    if not arguments.quick:
        figure(rows, RESULTS / "perturb.png")
        print(f"\nwrote {RESULTS / 'perturb.jsonl'} and perturb.png")


if __name__ == "__main__":
    main()
