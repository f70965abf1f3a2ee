"""One full-parameter MeZO step on SmolLM2-135M: `zokern.optim.MeZO` against the plain published loop.

    python -m benchmarks.bench_step [--repeats 5]

Same model, same batch (8 rows of 50 tokens), same two forwards; interleaved in one run. The plain loop
draws torch.normal for every parameter four times a step, out of place, as published trainers do.
`outside` is the time of a step that is not spent in the forwards.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import zokern
from zokern.app.models.packaged import smollm2_folder

from .timing import RESULTS, Writer, machine_line, table

LR, EPS = 1e-7, 1e-3


class PlainMeZO:
    """The loop of published trainers: re-seed, draw, move; +1, -2, +1, update."""

    def __init__(self, model: nn.Module) -> None:
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.steps = 0

    def move(self, seed: int, scale: float) -> None:
        torch.manual_seed(seed)
        for p in self.params:
            z = torch.normal(mean=0.0, std=1.0, size=p.data.size(), device=p.device, dtype=p.dtype)
            p.data = p.data + scale * z

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> float:
        self.steps += 1
        self.move(self.steps, EPS)
        plus = float(closure())
        self.move(self.steps, -2 * EPS)
        minus = float(closure())
        self.move(self.steps, EPS)
        self.move(self.steps, -LR * (plus - minus) / (2 * EPS))
        return (plus + minus) / 2


class Timed:
    """Steps of one optimizer: seconds of the whole, and of the forwards within."""

    def __init__(self, step: Callable[[Callable[[], Tensor]], float], closure: Callable[[], Tensor]) -> None:
        self.step, self.closure = step, closure
        self.whole: list[float] = []
        self.outside: list[float] = []
        self.optimizer: zokern.optim.MeZO | None = None

    def run(self) -> None:
        inside = 0.0

        def timed_closure() -> Tensor:
            nonlocal inside
            start = time.perf_counter()
            loss = self.closure()
            inside += time.perf_counter() - start
            return loss

        hooks = self.optimizer.engine.seconds_in_hooks if self.optimizer else 0.0
        start = time.perf_counter()
        self.step(timed_closure)
        whole = time.perf_counter() - start
        if self.optimizer:  # exact mode perturbs inside the forward
            inside -= self.optimizer.engine.seconds_in_hooks - hooks
        self.whole.append(whole)
        self.outside.append(whole - inside)


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def build(dtype: torch.dtype) -> nn.Module:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=dtype)
    return model.eval()


def figure(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8.5, 0.42 * len(rows) + 1.6), layout="constrained")
    labels = [f"{r['dtype']}, {r['threads']} thr.  {r['backend']}" for r in rows]
    outside = [r["outside"] for r in rows]
    forwards = [r["step"] - r["outside"] for r in rows]
    axis.barh(labels, forwards, color="#c9c9c9", label="two forwards")
    axis.barh(labels, outside, left=forwards, color="#1f6fb2", label="perturb, restore, update")
    for n, r in enumerate(rows):
        axis.text(
            r["step"], n, f"  {r['step']:.2f} s, {r['outside'] * 1e3:.0f} ms outside", va="center", fontsize=8
        )
    axis.invert_yaxis()
    axis.set_xlim(right=1.35 * max(r["step"] for r in rows))
    axis.set_xlabel("seconds a step")
    axis.set_title("One full-parameter MeZO step, SmolLM2-135M, 8 x 50 tokens", loc="left")
    axis.text(0, -0.22, machine_line(), transform=axis.transAxes, fontsize=7, color="#555")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine_line())
    rows: list[dict] = []
    with Writer(RESULTS / "step.jsonl") as writer:
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            model = build(dtype)
            generator = torch.Generator().manual_seed(0)
            ids = torch.randint(model.config.vocab_size, (8, 50), generator=generator)

            def closure(model: nn.Module = model, ids: Tensor = ids) -> Tensor:
                with torch.no_grad():
                    return model(input_ids=ids, labels=ids, use_cache=False).loss

            runs = {"plain loop": Timed(PlainMeZO(model).step, closure)}
            modes = ("inplace",) if dtype == torch.float32 else ("exact", "inplace")
            optimizers = []
            for restore in modes:
                for lazy in (False, True):
                    if lazy and restore == "exact":
                        continue  # exact mode has no pass to save
                    optimizer = zokern.optim.MeZO(model, lr=LR, eps=EPS, restore=restore, lazy=lazy)
                    label = f"zokern {restore}{', lazy' if lazy else ''}"
                    runs[label] = Timed(optimizer.step, closure)
                    runs[label].optimizer = optimizer
                    optimizers.append(optimizer)
            for repeat in range(arguments.repeats + 1):
                for run in runs.values():
                    run.run()
                    if run.optimizer:
                        run.optimizer.flush()
                    if repeat == 0:  # warm-up
                        run.whole.clear()
                        run.outside.clear()
            for optimizer in optimizers:
                optimizer.close()
            plain = runs["plain loop"]
            for label, run in runs.items():
                row = {
                    "op": "step", "case": "SmolLM2-135M full, 8x50 tokens", "dtype": name,
                    "threads": arguments.threads, "backend": label, "step": median(run.whole),
                    "outside": median(run.outside),
                    "ratio_step": median(plain.whole) / median(run.whole),
                    "ratio_outside": median(plain.outside) / median(run.outside),
                }  # fmt: skip
                rows.append(row)
                writer.row(**row)
    header = ["dtype", "", "step s", "outside ms", "x step", "x outside"]
    cells = [
        [r["dtype"], r["backend"], f"{r['step']:.2f}", f"{r['outside'] * 1e3:.0f}", f"{r['ratio_step']:.2f}", f"{r['ratio_outside']:.1f}"]
        for r in rows
    ]  # fmt: skip
    print(table(cells, header))
    figure(rows, RESULTS / "step.png")
    print(f"\nwrote {RESULTS / 'step.jsonl'} and step.png")


if __name__ == "__main__":
    main()
