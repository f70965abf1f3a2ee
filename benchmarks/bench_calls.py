"""What a call of `perturb_` costs besides its work: lists of tensors of 16 elements.

    python -m benchmarks.bench_calls

It is checks and packing, and counts where the work is small: adapters, or many small tensors. Beside it the
loops of bench_perturb, and `torch._foreach_add_`, one call for a list too. "first call" is of a list that was
not met before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

import zokern
from zokern.call import prepared

from .bench_perturb import SCALE, floor, mezo_expression, normal_add
from .cases import weights
from .timing import RESULTS, Writer, interleaved, machine_line, table

COUNTS = (1, 148, 1000)


def main() -> None:
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    shown = []
    with Writer(RESULTS / "calls.jsonl") as writer:
        for count in COUNTS:
            params = weights([(16,)] * count, torch.float32)

            def first_call(params: list[Tensor] = params) -> None:
                prepared.CACHE.clear()
                zokern.perturb_(params, 7, SCALE)

            cases: dict[str, Callable[[], object]] = {
                "zokern": functools.partial(zokern.perturb_, params, 7, SCALE),
                "zokern, first call": first_call,
                "normal+add_": functools.partial(normal_add, params),
                "MeZO expression": functools.partial(mezo_expression, params),
                "_foreach_add_": functools.partial(floor, params),
            }
            timings = interleaved(cases, 9, min_seconds=0.05)
            for backend, t in timings.items():
                ratio = t.p50 / timings["zokern"].p50
                writer.row(op="perturb_", tensors=count, elements=16, threads=1, backend=backend,
                           p20=t.p20, p50=t.p50, p80=t.p80, over_zokern=ratio)  # fmt: skip
            shown.append([str(count), *(f"{t.p50 * 1e6:.0f}" for t in timings.values())])
    print(machine_line())
    print("\nmicroseconds a call, 1 thread")
    print(table(shown, ["tensors of 16 elements", *cases]))
    print(f"\nwrote {RESULTS / 'calls.jsonl'}")


if __name__ == "__main__":
    main()
