"""The update passes with dense state against their bare memory traffic and against plain PyTorch.

    python -m benchmarks.bench_state [--quick]

GPT-2 small (148 tensors, 124.4 M weights), fp32, in the same run and interleaved:
  floor     the same memories read and written once and nothing else: the faster of torch._foreach_add_ of
            a constant on each list, and zokern.perturb_ of no seed (a multiplication) on all of them
  PyTorch   the expression a plain implementation writes: z by torch.normal, restore, moments, step
  zokern    one fused pass
Targets at 2 threads: an Adam-type update takes at most 1.4 times its floor, AdaMU's (two normals an
element) at most 2.5 times, and both are at least 8 times faster than PyTorch.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import zokern
from zokern.backends import available_isas

from .cases import gpt2_small_shapes, weights
from .timing import RESULTS, Timing, Writer, interleaved, machine_line, table

LR, EPS, G, STEP, SEED = 1e-6, 1e-3, 0.01, 10, 7
BETAS, ADAM_EPS = (0.9, 0.999), 1e-8
ALPHA, BETA1, BETA2, SIGMA = 0.7, 0.9, 0.3, 1e-8
ISAS = [isa for isa in available_isas() if isa != "portable"] or ["portable"]
Lists = list[list[Tensor]]  # params, m, v, maximum of v


def adam(variant: str, lists: Lists) -> None:
    p, m, v, top = lists
    zokern.adam_(
        p, m, v, SEED, G, lr=LR, betas=BETAS, eps=ADAM_EPS, step=STEP, variant=variant,
        max_exp_avg_sqs=top if variant == "adamm" else None, displacements=-EPS,
    )  # fmt: skip


def probe(lists: Lists) -> None:
    zokern.adamu_probe_(lists[0], lists[1], SEED, EPS, alpha=ALPHA, beta1=BETA1)


def update(lists: Lists) -> None:
    zokern.adamu_update_(
        lists[0], lists[1], SEED, G, lr=LR, alpha=ALPHA, beta1=BETA1, beta2=BETA2, sigma=SIGMA, displacement=-EPS
    )  # fmt: skip


def plain_adam(variant: str, lists: Lists) -> None:
    correction1, correction2 = 1 - BETAS[0] ** STEP, 1 - BETAS[1] ** STEP
    for p, m, v, top in zip(*lists):
        z = torch.normal(mean=0.0, std=1.0, size=p.shape)
        p.add_(z, alpha=-EPS)
        grad = G * z
        m.mul_(BETAS[0]).add_(grad, alpha=1 - BETAS[0])
        if variant == "adamax":
            torch.maximum(v.mul_(BETAS[1]), grad.abs().add_(ADAM_EPS), out=v)
            p.addcdiv_(m, v, value=-LR / correction1)
            continue
        v.mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
        square = torch.maximum(top, v, out=top) if variant == "adamm" else v
        p.addcdiv_(m, (square.sqrt() / math.sqrt(correction2)).add_(ADAM_EPS), value=-LR / correction1)


def plain_direction(m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gradient = math.sqrt(ALPHA) * torch.normal(mean=0.0, std=1.0, size=m.shape)
    past = m + math.sqrt(1 - ALPHA) * torch.normal(mean=0.0, std=1.0, size=m.shape)
    return BETA1 * gradient + (1 - BETA1) * past, gradient, past


def plain_probe(lists: Lists) -> None:
    for p, m in zip(lists[0], lists[1]):
        p.add_(plain_direction(m)[0], alpha=EPS)


def plain_update(lists: Lists) -> None:
    for p, m in zip(lists[0], lists[1]):
        now, gradient, past = plain_direction(m)
        v = BETA2 * gradient**2 + (1 - BETA2) * past**2
        p.add_(now, alpha=-EPS).sub_(LR * G * now / torch.sqrt(v + SIGMA))
        m.copy_(now)


@dataclass(frozen=True)
class Op:
    """A pass: the lists that its floor reads and writes, its bytes a weight, and who carries it out."""

    name: str
    lists: int
    nbytes: int
    ours: Callable[[Lists], None]
    plain: Callable[[Lists], None]
    target: float | None = None  # over the floor


OPS = [
    Op("adam_ adam", 3, 24, partial(adam, "adam"), partial(plain_adam, "adam"), 1.4),
    Op("adam_ adamax", 3, 24, partial(adam, "adamax"), partial(plain_adam, "adamax"), 1.4),
    Op("adam_ adamm", 4, 32, partial(adam, "adamm"), partial(plain_adam, "adamm"), 1.4),
    Op("adamu_probe_", 2, 12, probe, plain_probe),
    Op("adamu_update_", 2, 16, update, plain_update, 2.5),
]


def on(backend: str, isa: str | None, run: Callable[[Lists], None], lists: Lists) -> None:
    with zokern.use_backend(backend, isa=isa):
        run(lists)


def bare_foreach(lists: Lists) -> None:
    for each in lists:
        torch._foreach_add_(each, 1e-12)


def bare_native(lists: Lists) -> None:
    zokern.perturb_([t for each in lists for t in each], [], [], decay=1 - 2**-24)


def state(shapes: list[tuple[int, ...]]) -> Lists:
    """Weights, and moments in the middle of a run: no subnormal numbers."""
    params = weights(shapes, torch.float32)
    m = [zokern.normal(p.shape, 1, stream=i).mul_(G) for i, p in enumerate(params)]
    return [params, m, *([x.square().add_(1e-6) for x in m] for _ in range(2))]


def gate() -> None:
    """No speed is printed of a kernel that is wrong."""
    start = state([(10_007,), (33, 5)])
    for op in OPS:
        expected = [[t.clone() for t in each] for each in start]
        on("reference", None, op.ours, expected)
        for isa in ISAS:
            actual = [[t.clone() for t in each] for each in start]
            on("cpu", isa, op.ours, actual)
            assert all(torch.equal(a, e) for a, e in zip(sum(actual, []), sum(expected, []))), (op.name, isa)


def measure(lists: Lists, repeats: int) -> dict[str, Timing]:
    cases: dict[str, Callable[[], object]] = {}
    for count in (2, 3, 4):
        cases[f"foreach {count}"] = partial(bare_foreach, lists[:count])
        cases[f"native {count}"] = partial(bare_native, lists[:count])
    for op in OPS:
        cases[f"{op.name} PyTorch"] = partial(op.plain, lists)
        for isa in ISAS:
            cases[f"{op.name} {isa}"] = partial(on, "cpu", isa, op.ours, lists)
    return interleaved(cases, repeats)


def rows(timings: dict[str, Timing], threads: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    size = sum(math.prod(shape) for shape in gpt2_small_shapes())
    for op in OPS:
        floor = min(timings[f"{bare} {op.lists}"].p50 for bare in ("foreach", "native"))
        plain = timings[f"{op.name} PyTorch"].p50
        for backend in ("PyTorch", *ISAS):
            t = timings[f"{op.name} {backend}"]
            found.append({
                "op": op.name, "case": "gpt2-small, 148 tensors", "dtype": "fp32", "threads": threads,
                "backend": backend, "p20": t.p20, "p50": t.p50, "p80": t.p80, "runs": t.runs,
                "gb_per_s": op.nbytes * size / t.p50 / 1e9, "floor": floor, "over_floor": t.p50 / floor,
                "target": op.target, "ratio_pytorch": plain / t.p50,
            })  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one repeat, no file written")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    gate()
    print(machine_line())
    lists = state(gpt2_small_shapes())
    with Writer("/dev/null" if arguments.quick else RESULTS / "state.jsonl") as writer:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            shown = []
            for row in rows(measure(lists, 1 if arguments.quick else arguments.repeats), threads):
                writer.row(**row)
                numbers = (row["p50"] * 1e3, row["gb_per_s"], row["floor"] * 1e3)  # type: ignore[operator]
                shown.append([
                    f"{row['op']} {row['backend']}", *(f"{n:.1f}" for n in numbers),
                    f"{row['over_floor']:.2f}", str(row["target"] or "") if threads == 2 else "", f"{row['ratio_pytorch']:.1f}",
                ])  # fmt: skip
            print(f"\n{threads} thread(s)")
            print(table(shown, ["", "ms", "GB/s", "floor ms", "x floor", "at most", "x faster"]), flush=True)


if __name__ == "__main__":
    main()
