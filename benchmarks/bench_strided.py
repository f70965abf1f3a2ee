"""One in-place `perturb_` on views of other strides, beside the contiguous tensor and PyTorch's own way.

    python -m benchmarks.bench_strided [--repeats 9]

Every view is timed in one interleaved run with PyTorch's perturbation of the same view, `p.add_(torch.randn(p.shape),
alpha=...)`, and with `perturb_` on a contiguous tensor of about as many elements. The rows' ratios are per element.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable

import torch
from torch import Tensor

import zokern

from .bench_perturb import SCALE
from .timing import RESULTS, Writer, interleaved, machine_line, table

ELEMENTS = 1 << 22
VIEWS: dict[str, Callable[[torch.dtype], Tensor]] = {
    "columns, 1024 of 4096": lambda d: torch.zeros(4096, 4096, dtype=d)[:, :1024],
    "columns, 1000 of 3000": lambda d: torch.zeros(4096, 3000, dtype=d)[:, 7:1007],
    "columns, 64 of 192": lambda d: torch.zeros(65536, 192, dtype=d)[:, 64:128],
    "columns, 12 of 24": lambda d: torch.zeros(262144, 24, dtype=d)[:, :12],
    "every second row of 768": lambda d: torch.zeros(10000, 768, dtype=d)[::2],
    "transpose, 4096 x 1024": lambda d: torch.zeros(1024, 4096, dtype=d).t(),
    "transpose, 1000 x 3000": lambda d: torch.zeros(3000, 1000, dtype=d).t(),
    "transpose, 768 x 50257": lambda d: torch.zeros(50257, 768, dtype=d).t(),
    "channels_last, 512 x 512 x 3 x 3": lambda d: torch.zeros(512, 512, 3, 3, dtype=d).to(
        memory_format=torch.channels_last
    ),
    "channels_last, 16 x 64 x 64 x 64": lambda d: torch.zeros(16, 64, 64, 64, dtype=d).to(
        memory_format=torch.channels_last
    ),
    "every second element": lambda d: torch.zeros(2 * ELEMENTS, dtype=d)[::2],
    "every second column": lambda d: torch.zeros(2048, 4096, dtype=d)[:, ::2],
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def plain(p: Tensor) -> None:
    p.add_(torch.randn(p.shape, dtype=p.dtype), alpha=SCALE)


def gate(view: Tensor) -> None:
    """No speed is printed of a kernel that is wrong."""
    expected = view.clone(memory_format=torch.contiguous_format)
    zokern.perturb_(expected, 7, SCALE)
    zokern.perturb_(view, 7, SCALE)
    assert torch.equal(view, expected)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.set_grad_enabled(False)
    print(machine_line())
    with Writer(RESULTS / "strided.jsonl") as writer:
        for name, dtype in DTYPES.items():
            for threads in (1, 2):
                torch.set_num_threads(threads)
                shown = []
                contiguous = torch.zeros(ELEMENTS, dtype=dtype)
                for case, make in VIEWS.items():
                    view = make(dtype)
                    gate(view)
                    out = torch.empty_like(view)
                    runs = {
                        "zokern": functools.partial(zokern.perturb_, view, 7, SCALE),
                        "zokern out=": functools.partial(zokern.perturb_, view, 7, SCALE, out=out),
                        "contiguous": functools.partial(zokern.perturb_, contiguous, 7, SCALE),
                        "torch": functools.partial(plain, view),
                    }
                    timings = interleaved(runs, repeats)
                    rate = {
                        run: (ELEMENTS if run == "contiguous" else view.numel()) / t.p50 / 1e9
                        for run, t in timings.items()
                    }
                    for run, t in timings.items():
                        writer.row(
                            op="perturb_", case=case, dtype=name, threads=threads, backend=run, p20=t.p20, p50=t.p50,
                            p80=t.p80, g_per_s=rate[run], percent_of_contiguous=100 * rate[run] / rate["contiguous"],
                            ratio_torch=rate[run] / rate["torch"],
                        )  # fmt: skip
                    ours = rate["zokern"]
                    shown.append(
                        [
                            case, f"{ours:.2f}", f"{100 * ours / rate['contiguous']:.0f}", f"{ours / rate['torch']:.1f}",
                            f"{rate['zokern out='] / rate['torch']:.1f}",
                        ]
                    )  # fmt: skip
                print(f"\n{name}, {threads} thread(s)")
                print(table(shown, ["view", "G/s", "% contiguous", "x torch", "x torch, out="]), flush=True)
    print(f"\nwrote {RESULTS / 'strided.jsonl'}")


if __name__ == "__main__":
    main()
