"""The update passes with dense state against their bare memory traffic and against plain PyTorch.

    python -m benchmarks.bench_state [--quick]

GPT-2 small (148 tensors, 124.4 M weights), fp32, in the same run and interleaved:
  floor     the same memories read and written once and nothing else: the faster of torch._foreach_add_ of
            a constant on each list, and zokern.perturb_ of no seed (a multiplication) on all of them
  PyTorch   the expression a plain implementation writes: z by torch.normal, restore, moments, step
  zokern    one fused pass
Targets: an Adam-type update takes at most 1.4 times its floor at 2 threads, AdaMU's (two normals an
element) at most 2.5 times, both are at least 8 times faster than PyTorch.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import zokern
from zokern.native.cpu import available_isas

from .cases import gpt2_small_shapes, weights
from .timing import RESULTS, Timing, Writer, interleaved, machine_line, table

LR, EPS, G, STEP, SEED = 1e-6, 1e-3, 0.01, 10, 7
BETAS, ADAM_EPS = (0.9, 0.999), 1e-8
ALPHA, BETA1, BETA2, SIGMA = 0.7, 0.9, 0.3, 1e-8
Lists = list[list[Tensor]]  # params, m, v, maximum of v


def backend(name: str) -> contextlib.AbstractContextManager[None]:
    """The reference, or an instruction set of the CPU backend."""
    return zokern.use_backend("reference") if name == "reference" else zokern.use_backend("cpu", isa=name)


def adam(lists: Lists, variant: str, isa: str) -> None:
    p, m, v, top = lists
    with backend(isa):
        zokern.adam_(
            p, m, v, SEED, G, lr=LR, betas=BETAS, eps=ADAM_EPS, step=STEP, variant=variant,
            max_exp_avg_sqs=top if variant == "adamm" else None, displacements=-EPS,
        )  # fmt: skip


def probe(lists: Lists, isa: str) -> None:
    with backend(isa):
        zokern.adamu_probe_(lists[0], lists[1], SEED, EPS, alpha=ALPHA, beta1=BETA1)


def update(lists: Lists, isa: str) -> None:
    with backend(isa):
        zokern.adamu_update_(
            lists[0], lists[1], SEED, G, lr=LR, alpha=ALPHA, beta1=BETA1, beta2=BETA2, sigma=SIGMA,
            displacement=-EPS,
        )  # fmt: skip


def plain_adam(lists: Lists, variant: str) -> None:
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


def bare_foreach(lists: Lists) -> None:
    for each in lists:
        torch._foreach_add_(each, 1e-12)


def bare_native(lists: Lists) -> None:
    zokern.perturb_([t for each in lists for t in each], [], [], decay=1 - 2**-24)


# op, how many lists it reads and writes, bytes of a weight, ours, PyTorch's, the target over the floor
OPS: dict[str, tuple[int, int, Callable[..., None], Callable[[Lists], None], float | None]] = {
    "adam_ adam": (3, 24, functools.partial(adam, variant="adam"), functools.partial(plain_adam, variant="adam"), 1.4),
    "adam_ adamax": (3, 24, functools.partial(adam, variant="adamax"), functools.partial(plain_adam, variant="adamax"), 1.4),
    "adam_ adamm": (4, 32, functools.partial(adam, variant="adamm"), functools.partial(plain_adam, variant="adamm"), 1.4),
    "adamu_probe_": (2, 12, probe, plain_probe, None),
    "adamu_update_": (2, 16, update, plain_update, 2.5),
}  # fmt: skip


def state(shapes: list[tuple[int, ...]]) -> Lists:
    """Weights, and moments in the middle of a run: no subnormal numbers."""
    params = weights(shapes, torch.float32)
    m = [zokern.normal(p.shape, 1, stream=i).mul_(G) for i, p in enumerate(params)]
    return [params, m, *([x.square().add_(1e-6) for x in m] for _ in range(2))]


def gate() -> None:
    """No speed is printed of a kernel that is wrong."""
    start = state([(10_007,), (33, 5)])
    for name, (_, _, ours, _, _) in OPS.items():
        expected = [[t.clone() for t in each] for each in start]
        ours(expected, isa="reference")
        for isa in available_isas():
            actual = [[t.clone() for t in each] for each in start]
            ours(actual, isa=isa)
            assert all(torch.equal(a, e) for a, e in zip(sum(actual, []), sum(expected, []))), (name, isa)


def measure(threads: int, repeats: int) -> dict[str, Timing]:
    torch.set_num_threads(threads)
    lists = state(gpt2_small_shapes())
    cases: dict[str, Callable[[], object]] = {}
    for count in (2, 3, 4):
        cases[f"foreach {count}"] = functools.partial(bare_foreach, lists[:count])
        cases[f"native {count}"] = functools.partial(bare_native, lists[:count])
    for name, (_, _, ours, plain, _) in OPS.items():
        cases[f"{name} PyTorch"] = functools.partial(plain, lists)
        for isa in available_isas():
            cases[f"{name} {isa}"] = functools.partial(ours, lists, isa=isa)
    return interleaved(cases, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one repeat, no file written")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    repeats = 1 if arguments.quick else arguments.repeats
    gate()
    print(machine_line())
    with Writer("/dev/null" if arguments.quick else RESULTS / "state.jsonl") as writer:
        for threads in (1, 2):
            timings = measure(threads, repeats)
            shown = []
            for name, (count, nbytes, _, _, target) in OPS.items():
                floor = min(timings[f"{bare} {count}"].p50 for bare in ("foreach", "native"))
                plain = timings[f"{name} PyTorch"]
                for kind in ("PyTorch", *available_isas()):
                    t = timings[f"{name} {kind}"]
                    gb = nbytes * sum(math.prod(s) for s in gpt2_small_shapes()) / t.p50 / 1e9
                    row = {
                        "op": name, "case": "gpt2-small, 148 tensors", "dtype": "fp32", "threads": threads,
                        "backend": kind, "p20": t.p20, "p50": t.p50, "p80": t.p80, "gb_per_s": gb,
                        "floor": floor, "over_floor": t.p50 / floor, "target": target,
                        "ratio_pytorch": plain.p50 / t.p50,
                    }  # fmt: skip
                    writer.row(**row)
                    aim = "" if target is None or kind != "avx512" else f"{target}"
                    shown.append([
                        f"{name} {kind}", f"{t.p50 * 1e3:.1f}", f"{gb:.1f}", f"{floor * 1e3:.1f}",
                        f"{t.p50 / floor:.2f}", aim, f"{plain.p50 / t.p50:.1f}",
                    ])  # fmt: skip
            print(f"\n{threads} thread(s)")
            print(table(shown, ["", "ms", "GB/s", "floor ms", "x floor", "at most", "x faster"]), flush=True)
    if not arguments.quick:
        print(f"\nwrote {Path(RESULTS / 'state.jsonl')}")


if __name__ == "__main__":
    main()
