"""What a step of each method costs: passes over the trainables, normals, bytes, forwards, buffers.

    python -m benchmarks.passes

Counted, not estimated: a dispatch mode sees every op that a step calls outside the model's own forward;
what an op reads and writes follows from its schema. tests/optim/test_passes.py holds the same counts.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zokern.optim import (
    ZOSVRG,
    AdaMUSchedule,
    AdaZeta,
    BlockSchedule,
    MeZO,
    MeZOSVRG,
    SparseMeZO,
    ZerothOrderOptimizer,
    ZOAdam,
    ZOAdaMax,
    ZOAdaMM,
    ZOAdaMU,
    ZOAdamW,
)

from .timing import table

WRITE_ONLY = {"aten::copy_", "aten::_foreach_copy_", "aten::fill_", "aten::zero_"}


@dataclass(frozen=True)
class Cost:
    """Of one step, an element of the trainables.

    Attributes:
        passes: times that zokern's ops go over the weights.
        other: times that ops of torch do (copies, comparisons, sums; `add_dense_` is one).
        normals: numbers drawn.
        bytes: read and written.
        forwards: closures run, a number and not a fraction.
    """

    passes: float = 0.0
    other: float = 0.0
    normals: float = 0.0
    bytes: float = 0.0
    forwards: int = 0


class Traffic(TorchDispatchMode):
    """While active, counts what ops do to memory; within `forward` zokern's alone, which exact mode calls."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = self.other = self.normals = self.bytes = self.forwards = 0
        self._in_forward = False

    @contextmanager
    def forward(self) -> Iterator[None]:
        self.forwards += 1
        self._in_forward = True
        try:
            yield
        finally:
            self._in_forward = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        schema = func._schema
        given = dict(zip((argument.name for argument in schema.arguments), args)) | kwargs
        if "seeds" in given or ("seed" in given and "adamu" in schema.name):  # an op that draws noise
            elements = self._move(schema, given, result)
            self.passes += elements
            self.normals += elements * (2 if "adamu" in schema.name else len(given["seeds"]))
        elif not self._in_forward:
            self.other += self._move(schema, given, result)
        return result

    def _move(self, schema: Any, given: dict[str, Any], result: Any) -> int:
        """Adds the op's bytes; returns the elements it goes over, none for a view or an allocation."""
        read = written = 0
        for argument in schema.arguments:
            size = nbytes(given.get(argument.name))
            writes = argument.alias_info is not None and argument.alias_info.is_write
            written += size * writes
            read += size * (not writes or (argument.name != "out" and schema.name not in WRITE_ONLY))
        if not written and not any(r.alias_info for r in schema.returns):
            written = nbytes(result)
        if not written or "empty" in schema.name:
            return 0
        self.bytes += read + written
        return max(sum(t.numel() for t in tensors(value)) for value in given.values())


def tensors(value: Any) -> list[Tensor]:
    """The tensors of an argument."""
    return [t for t in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(t, Tensor)]


def nbytes(value: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors(value))


def cost_of_step(
    optimizer: ZerothOrderOptimizer, closure: Callable[[], Tensor], step: Callable[..., float] | None = None
) -> Cost:
    """Counts one step; `step(closure)` stands for `optimizer.step` where that takes more."""
    traffic = Traffic()

    def counted(*sample: int) -> Tensor:
        with traffic.forward():
            return closure()

    with traffic:
        (step or optimizer.step)(counted)
    size = sum(p.numel() for p in optimizer.trainables)
    counts = (traffic.passes, traffic.other, traffic.normals, traffic.bytes)
    return Cost(*(count / size for count in counts), traffic.forwards)


@dataclass(frozen=True)
class Row:
    """A method of the table: how it is made, what it steps with, and which step is counted."""

    name: str
    make: Callable[[nn.Module], ZerothOrderOptimizer]
    step: Callable[[Any, Any], float] = lambda optimizer, closure: optimizer.step(closure)
    before: int = 2  # steps taken first


def svrg_step(optimizer: Any, closure: Any) -> float:
    return optimizer.step(closure, full_closure=closure)


STAGES = AdaMUSchedule(total_steps=10)

ROWS = [
    Row("MeZO, two-sided", lambda m: MeZO(m)),
    Row("MeZO, `lazy`", lambda m: MeZO(m, lazy=True)),
    Row("MeZO, one-sided", lambda m: MeZO(m, one_sided=True)),
    Row("MeZO, weights never written (`exact`)", lambda m: MeZO(m, restore="exact")),
    Row("MeZO, dense momentum", lambda m: MeZO(m, momentum=0.9)),
    Row("MeZO, 5 queries, `lazy`", lambda m: MeZO(m, num_queries=5, lazy=True)),
    Row("AdaZeta, 5 queries", lambda m: AdaZeta(m, schedule=5, restore="inplace")),
    Row("ZOAdam", lambda m: ZOAdam(m)),
    Row("ZOAdamW", lambda m: ZOAdamW(m)),
    Row("ZOAdaMax", lambda m: ZOAdaMax(m)),
    Row("ZOAdaMM", lambda m: ZOAdaMM(m)),
    Row("ZOAdaMU", lambda m: ZOAdaMU(m, schedule=STAGES)),
    Row("MeZO-SVRG, full step", lambda m: MeZOSVRG(m, interval=2), svrg_step, 2),
    Row("MeZO-SVRG, other steps", lambda m: MeZOSVRG(m, interval=2), svrg_step, 3),
    Row("MeZO-SVRG, other steps, `lazy`", lambda m: MeZOSVRG(m, interval=2, lazy=True), svrg_step, 3),
    Row("MeZO-SVRG, other steps, anchor copied", lambda m: MeZOSVRG(m, interval=2, anchor="copy"), svrg_step, 3),
    Row("ZO-SVRG, other steps, batch of 2", lambda m: ZOSVRG(m, num_samples=8), lambda o, c: o.step(c, [0, 1]), 3),
    Row("SparseMeZO (`exact`)", lambda m: SparseMeZO(m)),
    Row("SparseMeZO, in place", lambda m: SparseMeZO(m, restore="inplace")),
    Row("SparseMeZO, 1 block of 4", lambda m: SparseMeZO(m, sparsity=0.0, blocks=BlockSchedule())),
]  # fmt: skip


class Layers(nn.Module):
    """Four equal layers."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def count(row: Row) -> tuple[Cost, float]:
    """The cost of a row's step, and the bytes that the optimizer holds after it, an element of the
    trainables."""
    model = Layers()
    x = torch.ones(2, 64)

    def closure(*sample: int) -> Tensor:
        return model(x).square().mean()

    gc.freeze()  # what there is now is not listed below
    try:
        optimizer = row.make(model)
        for _ in range(row.before):
            row.step(optimizer, closure)
        cost = cost_of_step(optimizer, closure, lambda counted: row.step(optimizer, counted))
        gc.collect()
        storages = [t.untyped_storage() for t in gc.get_objects() if type(t) is Tensor]
    finally:
        gc.unfreeze()
    held = {storage.data_ptr(): storage.nbytes() for storage in storages}
    for p in model.parameters():
        held.pop(p.untyped_storage().data_ptr(), None)
    return cost, sum(held.values()) / sum(p.numel() for p in model.parameters())


def markdown() -> str:
    """The table, for fp32 weights."""
    header = ["one step", "passes", "normals", "bytes", "forwards", "bytes held"]
    shown = []
    for row in ROWS:
        cost, held = count(row)
        passes = f"{cost.passes:g}" + (f" + {cost.other:g}" if cost.other else "")
        numbers = (cost.normals, cost.bytes, cost.forwards, held)
        shown.append([row.name, passes, *(f"{number:g}" for number in numbers)])
    return table(shown, header)


if __name__ == "__main__":
    print(markdown())
