"""Peak memory by method, batch size and sequence length, beside the papers' tables.

SmolLM2-135M in fp32, label words scored, random tokens. Every cell is a forked child that takes its steps
and reads its own peak of resident memory (VmHWM), less that of the same steps on next to no model.
What the papers count on a GPU (weights, state, gradients, activations) is all that differs between cells.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from zokern.app.models import Classifier, Inputs, load_classifier
from zokern.app.tuning import TuningOptions, apply_tuning
from zokern.optim import AdaZeta, MeZO, MeZOSVRG, ZOAdam, ZOAdaMU

from .common import Experiment, Table
from .figures import COLOURS, GREY, INK, plot, title
from .texts import Kept, tiny_model, tiny_task

Loss = Callable[[Inputs], torch.Tensor]
Cell = tuple[int, int]
"""Batch size and sequence length."""


@dataclass(frozen=True)
class Grid:
    """Cells by batch size at one length, and by length at one batch size."""

    batches: tuple[Cell, ...] = ((1, 128), (4, 128), (8, 128))
    lengths: tuple[Cell, ...] = ((4, 64), (4, 128))

    def cells(self) -> list[Cell]:
        return list(dict.fromkeys([*self.lengths, *self.batches]))


QUICK = Grid(((1, 8), (2, 8)), ((1, 8), (1, 16)))
_M_MMAP_THRESHOLD = -3


def _inference(model: Classifier, batch: Inputs, loss: Loss) -> None:
    with torch.no_grad():
        loss(batch)


def _zeroth_order(build: Callable[[Classifier], Any]) -> Callable[[Classifier, Inputs, Loss], None]:
    def run(model: Classifier, batch: Inputs, loss: Loss) -> None:
        build(model).step(lambda: loss(batch))

    return run


def _svrg(anchor: str) -> Callable[[Classifier, Inputs, Loss], None]:
    def run(model: Classifier, batch: Inputs, loss: Loss) -> None:
        optimizer = MeZOSVRG(model, anchor=anchor, interval=2)
        for _ in range(2):  # a full step, of one micro-batch, and a mini-batch step
            optimizer.step(lambda: loss(batch), full_closure=lambda: loss(batch))

    return run


def _first_order(build: Callable[..., torch.optim.Optimizer]) -> Callable[[Classifier, Inputs, Loss], None]:
    def run(model: Classifier, batch: Inputs, loss: Loss) -> None:
        optimizer = build([p for p in model.parameters() if p.requires_grad], lr=1e-6)
        little = {name: value[:1] for name, value in batch.items()}
        for each in (little, batch):  # the first makes Adam's state
            optimizer.zero_grad()
            loss(each).backward()
            optimizer.step()

    return run


# name -> (tuning, what it runs)
METHODS: dict[str, tuple[str, Callable[[Classifier, Inputs, Loss], None]]] = {
    "inference": ("full", _inference),
    "MeZO": ("full", _zeroth_order(MeZO)),
    "MeZO-SVRG, replay": ("full", _svrg("replay")),
    "MeZO-SVRG, copy": ("full", _svrg("copy")),
    "ZO-AdaMU": ("full", _zeroth_order(lambda model: ZOAdaMU(model, schedule=10))),
    "ZO-Adam": ("full", _zeroth_order(ZOAdam)),
    "FO-SGD": ("full", _first_order(torch.optim.SGD)),
    "FO-AdamW": ("full", _first_order(torch.optim.AdamW)),
    "MeZO, LoRA": ("lora", _zeroth_order(MeZO)),
    "AdaZeta, TT adapters": ("tt", _zeroth_order(lambda model: AdaZeta(model, schedule=1))),
    "FO-AdamW, LoRA": ("lora", _first_order(torch.optim.AdamW)),
}


def resident(field: str) -> int:
    """ "VmRSS", what the process holds now, or "VmHWM", the most it has held, in bytes."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return int(line.split()[1]) * 1024


class Bench:
    """The model, loaded once; `peak` forks."""

    def __init__(self, quick: bool) -> None:
        import peft  # noqa: F401  (here, or every child would do it)

        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)  # tensors go back to the system when they are freed
        task = tiny_task()
        with tempfile.TemporaryDirectory() as folder:
            tiny = str(tiny_model("causal", Path(folder)))
            self.model = load_classifier(tiny, task)
            # The same code on next to no model: interpreter, libraries, what of them a method touches.
            self.before = {method: self.whole(method, (1, 8)) for method in METHODS}
            self.model = load_classifier(tiny if quick else "smollm2", task)
        for parameter in self.model.parameters():
            parameter.data = parameter.data.clone()  # in memory, not in the mapped file
        libc.malloc_trim(0)
        self.weights = 4 * sum(p.numel() for p in self.model.parameters())

    def peak(self, method: str, cell: Cell) -> int:
        """Bytes at the peak of the method's steps, beyond those of the process without the model."""
        return self.whole(method, cell) - self.before[method]

    def whole(self, method: str, cell: Cell) -> int:
        """Bytes at the peak of a child that takes the method's steps."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(read)
                os.write(write, str(self.run(method, cell)).encode())
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        if not said:
            raise RuntimeError(f"the process of {method} at batch {cell[0]}, length {cell[1]} gave no number")
        return int(said)

    def run(self, method: str, cell: Cell) -> int:
        tuning, take_steps = METHODS[method]
        model = self.model
        apply_tuning(tuning, model, TuningOptions())
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        vocabulary = model.lm.config.vocab_size
        batch_size, length = cell
        batch = {
            "prefix": torch.zeros(1, 0, dtype=torch.int64),
            "ids": torch.randint(4, vocabulary, cell),
            "mask": torch.ones(cell, dtype=torch.int64),
            "positions": torch.full((batch_size,), length - 1),
        }
        labels = torch.zeros(batch_size, dtype=torch.int64)
        take_steps(model, batch, lambda b: F.cross_entropy(model(b), labels[: len(b["ids"])]))
        return resident("VmHWM")


Peaks = dict[str, dict[Cell, float]]
"""Method to cell to MB."""

PAPER = {"MeZO": (2.07, 2.21, 2.51), "MeZO-SVRG": (4.36, 4.51, 4.72), "FO-SGD": (6.74, 10.67, 18.55),
         "FO-Adam": (10.44, 14.33, 22.41)}  # fmt: skip
"""GB of RoBERTa-large (355 M, fp32, 128 tokens) at batch 16, 32, 64: MeZO-SVRG, table 3."""


def tables(peaks: Peaks, grid: Grid, weights: float) -> list[Table]:
    top, cells = grid.batches[-1], sorted(grid.cells())
    header = [
        "MB",
        *(f"{b} x {length}" for b, length in cells),
        "÷ MeZO at the largest batch",
        "saves of FO-SGD",
    ]
    rows = []
    for method, found in peaks.items():
        saved = f"{100 * (1 - found[top] / peaks['FO-SGD'][top]):.0f} %"
        rows.append([
            method, *(f"{found[cell]:.0f}" for cell in cells), f"{found[top] / peaks['MeZO'][top]:.2f}", saved,
        ])  # fmt: skip
    paper = [
        [method, *map(str, found), f"{found[-1] / PAPER['MeZO'][-1]:.2f}",
         f"{100 * (1 - found[-1] / PAPER['FO-SGD'][-1]):.0f} %"]
        for method, found in PAPER.items()
    ]  # fmt: skip
    return [
        Table(f"Peak memory by batch x tokens; the weights are {weights:.0f} MB", header, rows),
        Table("The paper's, RoBERTa-large (1420 MB of weights), 128 tokens, whole GPU process",
              ["GB", "16", "32", "64", "÷ MeZO at the largest batch", "saves of FO-SGD"], paper),
    ]  # fmt: skip


def draw(peaks: Peaks, grid: Grid, weights: float) -> Any:
    figure, (bars, by_batch, by_length) = plot(12.0, 4.2, columns=3, width_ratios=(1.35, 1, 1))
    top = grid.batches[-1]
    order = sorted(peaks, key=lambda method: -peaks[method][top])
    for place, method in enumerate(order):
        value = peaks[method][top]
        colour = colour_of(method)
        bars.barh(place, value, color=colour, alpha=0.85, height=0.7)
        bars.text(value, place, f" {value:.0f}", va="center", fontsize=8, color=INK)
    bars.set_yticks(range(len(order)), order, fontsize=8.5)
    bars.axvline(weights, color=INK, lw=1, ls=":")
    bars.text(weights, len(order) - 0.35, " weights", fontsize=8, color=INK)
    bars.set_ylim(-0.6, len(order))
    bars.set_xlim(0, 1.15 * peaks[order[0]][top])
    bars.grid(visible=False, axis="y")
    bars.set_xlabel("peak, MB")
    title(bars, "Peak memory by method", f"SmolLM2-135M fp32, batch {top[0]} x {top[1]} tokens")
    shown = ("FO-AdamW", "FO-SGD", "FO-AdamW, LoRA", "ZO-AdaMU", "MeZO-SVRG, replay", "MeZO")
    for axis, cells, part, what in (
        (by_batch, grid.batches, 0, f"{top[1]} tokens"),
        (by_length, grid.lengths, 1, f"batch {grid.lengths[0][0]}"),
    ):  # fmt: skip
        for method in shown:
            style = {"ls": (0, (4, 3)), "lw": 3.2} if method == "MeZO-SVRG, replay" else {"lw": 2.0}
            x, y = [cell[part] for cell in cells], [peaks[method][cell] for cell in cells]
            axis.plot(x, y, marker="o", ms=4, color=colour_of(method), label=method, **style)
        axis.axhline(weights, color=INK, lw=1, ls=":")
        axis.set_xticks([cell[part] for cell in cells])
        axis.set_ylim(0, 1.08 * max(peaks[order[0]][cell] for cell in grid.cells()))
        axis.set_xlabel(("batch size", "sequence length")[part])
        title(axis, ("By batch size", "By sequence length")[part], what)
        axis.margins(x=0.08)
    by_length.set_yticklabels([])
    lines, names = by_batch.get_legend_handles_labels()
    figure.legend(lines, names, loc="outside right upper", frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def colour_of(method: str) -> str:
    own = {"FO-AdamW": "#1b1b1b", "FO-AdamW, LoRA": "#9a9a9a", "inference": "#bcd2ea", "ZO-AdaMU": "#8a5fb0"}
    return own.get(method) or COLOURS.get(method.split(",")[0], GREY)


def verdict(peaks: Peaks, grid: Grid, weights: float) -> tuple[str, str]:
    """What agrees and what does not, from the numbers."""
    small, top, long = grid.batches[0], grid.batches[-1], grid.lengths[-1]

    def ratio(method: str, cell: Cell, to: str = "MeZO") -> float:
        return peaks[method][cell] / peaks[to][cell]

    saved = [100 * (1 - ratio("MeZO", cell, "FO-SGD")) for cell in (small, top)]
    agrees = (
        f"MeZO takes the memory of inference ({ratio('MeZO', top, 'inference'):.2f} x); what it saves of FO-SGD grows "
        f"with the batch, from {saved[0]:.0f} to {saved[1]:.0f} % (paper 69 to 88 %), as SGD and AdamW grow with it "
        f"and the zeroth-order methods hardly do; ZO-AdaMU adds {buffers(peaks, 'ZO-AdaMU', weights):.2f} buffers of "
        f"the weights' size, as its paper says (2 x); AdaZeta takes "
        f"{ratio('FO-AdamW', top, 'AdaZeta, TT adapters'):.1f} x less than full AdamW (paper 5 to 8 x) and "
        f"{ratio('FO-AdamW, LoRA', long, 'AdaZeta, TT adapters'):.1f} x less than first-order LoRA at {long[0]} x "
        f"{long[1]} tokens (paper 2.5 x at batch 1), because LoRA keeps activations too."
    )
    differs = (
        f"MeZO-SVRG is {ratio('MeZO-SVRG, replay', top):.3f} x MeZO by replay and {ratio('MeZO-SVRG, copy', top):.2f} x "
        f"with a copy (and one module's scratch, which visiting the copy takes), where the paper's two buffers make "
        f"it 1.9 to 2.1 x. AdamW is {ratio('FO-AdamW', top):.1f} x MeZO here and 8.9 x at the paper's batch of 64, which "
        f"is larger than ours. The numbers of AdaZeta's memory table are not in the text at hand, only its claims."
    )
    return agrees, differs


def buffers(peaks: Peaks, method: str, weights: float) -> float:
    """What a method adds to MeZO's peak, in weights; the least over cells, where activations are small."""
    return min((peaks[method][cell] - peaks["MeZO"][cell]) / weights for cell in peaks[method])


def main(argv: Sequence[str] | None = None) -> None:
    experiment = Experiment.start(
        argv,
        name="memory",
        source="MeZO-SVRG, table 3 and figure 3; ZO-AdaMU, table 5; AdaZeta, tables 4 and 10",
        claim="MeZO takes the memory of inference; MeZO-SVRG takes 2 x MeZO's and saves 35 to 76 % of FO-SGD's, more "
        "with batch and length; ZO-AdaMU takes 2 x inference; AdaZeta takes 5 to 8 times less than "
        "full first-order tuning, and less than half of first-order LoRA's.",
        description=__doc__,
        seeds=1,
    )
    kept = Kept(experiment)
    grid = QUICK if experiment.quick else Grid()
    bench: list[Bench] = []

    def measure(method: str, cell: Cell) -> dict[str, Any]:
        def run() -> dict[str, Any]:
            if not bench:
                bench.append(Bench(experiment.quick))
            return {"peak": bench[0].peak(method, cell), "weights": bench[0].weights}

        return kept.get({"method": method, "batch": cell[0], "length": cell[1]}, run)

    peaks: Peaks = {method: {} for method in METHODS}
    weights = 0.0
    for cell, method in experiment.track([(c, m) for c in grid.cells() for m in METHODS]):
        row = measure(method, cell)
        peaks[method][cell] = row["peak"] / 1e6
        weights = row["weights"] / 1e6
    agrees, differs = verdict(peaks, grid, weights)
    kept.charge(experiment)
    experiment.save(
        tables=tables(peaks, grid, weights),
        agrees=agrees,
        differs=differs,
        data={m: {f"{b}x{n}": v for (b, n), v in p.items()} for m, p in peaks.items()},
        figure=draw(peaks, grid, weights),
    )


if __name__ == "__main__":
    main()
