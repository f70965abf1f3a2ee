"""Prepared calls: the checks of a layer done once, for as long as its tensors stay what they are.

At one row the kernel of an adapter takes 4 us, a quarter of what checking its twelve cores does. A
`Prepared` keeps what the checks found. Before each run it makes sure, in 2 us, that this still holds:
the same tensors (by identity, the cache's key), at the same addresses, no autograd, no dispatch mode,
the same backend asked for. If anything differs it declines, and the call takes the way with all checks.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ._library import PLAIN, observed
from ._tt_checks import TTLayer, TTNoise, check_x, count_queries
from ._tt_rows import check_out, through_rows
from .tt_plan import make_plan

CACHE: dict[tuple, Prepared] = {}
MAX_LAYERS = 4096  # remembered in CACHE
MAX_ROWS = 1024  # remembered row counts of one layer

_DTYPE = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_data_ptr = Tensor.data_ptr
_grad_enabled = torch.is_grad_enabled
_threads = torch.get_num_threads
_requested = backends._choice.get


class Prepared:
    """A linear layer, or an adapter's two, checked and bound to the CPU kernels.

    Holds no tensor: the caller passes the layer's tensors to every call, in one order.
    """

    def __init__(
        self, layers: tuple[TTLayer, ...], pointers: list[int], activation: str, scale: float,
        groups: int | str,
    ) -> None:  # fmt: skip
        from ..native import cpu, tt

        self._native = tt
        self._packed = [tt.pack_layer(layer) for layer in layers]
        self._plans = [layer.plan for layer in layers]
        self._count = sum(len(layer.tensors) for layer in layers)
        self._queries = layers[0].queries
        self._arguments = (tt.ACTIVATION[activation], scale, backends.ISAS.index(cpu.current_isa()))
        self._groups, self._pointers, self._asked = groups, pointers, _requested()
        self._in = (layers[0].plan.in_features,)
        self._out = layers[-1].plan.out_features
        self._same_size = len(layers) == 2
        self._calls: dict[object, Any] = {}
        self._runs: dict[int, Callable[..., None]] = {}
        self.watch: list[weakref.ref] = []

    def _call(self, rows: int, offsets: tuple) -> Any:
        """The compiled call for `rows` rows a query."""
        plans = tuple(make_plan(p.modes, p.ranks, p.split, rows, self._groups) for p in self._plans)
        call = self._calls.get((plans, offsets))
        if call is None:
            if len(self._calls) >= 64:
                self._calls.clear()
            call = self._native.make_call(self._packed, plans, offsets, *self._arguments)
            self._calls[plans, offsets] = call
        return call

    def __call__(
        self, x: Tensor, tensors: Sequence[Tensor], out: Tensor | None, noise: TTNoise | None
    ) -> Tensor | None:
        """y, or None where this path cannot answer for the call."""
        if (
            type(x) not in PLAIN
            or _requested() is not self._asked
            or [*map(_data_ptr, tensors)] != self._pointers
            or observed()
            or not x.is_cpu
        ):
            return None
        if _grad_enabled() and (x.requires_grad or any(t.requires_grad for t in tensors)):
            return None
        dtype = _DTYPE.get(x.dtype)
        if dtype is None or x.shape[-1:] != self._in:
            return None
        if noise is not None or self._queries is not None or not x.is_contiguous():
            return self._general(x, tensors[0], out, noise)
        rows = x.numel() // self._in[0]
        if out is None:
            y = self._native.new_rows(x, self._out)
        elif out is x and self._same_size:
            y = x
        elif self._apart(x, out):
            y = out
        else:
            return self._general(x, tensors[0], out, noise)
        run = self._runs.get(rows)
        if run is None:
            if len(self._runs) >= MAX_ROWS:
                self._runs.clear()
            run = self._runs[rows] = self._call(rows, ()).run
        run(x.data_ptr(), y.data_ptr(), rows, dtype, _threads())
        if out is not None and not y.is_inference():
            torch.autograd.graph.increment_version(y)
        return y

    def _apart(self, x: Tensor, out: Tensor) -> bool:
        """`out` is plainly as y would be, in other memory than x."""
        if (
            type(out) not in PLAIN
            or out.dtype is not x.dtype
            or not out.is_contiguous()
            or not out.is_cpu
            or out.shape[-1:] != (self._out,)
            or out.shape[:-1] != x.shape[:-1]
            or (_grad_enabled() and out.requires_grad)
        ):
            return False
        a, b = x.data_ptr(), out.data_ptr()
        return a + x.nbytes <= b or b + out.nbytes <= a

    def _general(self, x: Tensor, core: Tensor, out: Tensor | None, noise: TTNoise | None) -> Tensor | None:
        """Queries, noise, strides and `out`, with every check of x and out."""
        check_x(x, self._plans[0], core)
        queries = count_queries(x, self._queries, self._count, noise)
        if out is not None:
            check_out(out, x, self._out)
            if _grad_enabled() and out.requires_grad:
                return None
        y = self._native.new_rows(x, self._out) if out is None else out
        rows = x.numel() // self._in[0]
        if rows:
            call = self._call(rows // (queries or 1), () if noise is None else noise.positions)
            run = self._native.run_strided
            through_rows(x, y, lambda a, b: run(call, a, b, queries, noise))
        if out is not None and not out.is_inference():
            torch.autograd.graph.increment_version(out)
        return y


def prepare(
    op: str, layers: tuple[TTLayer, ...], tensors: Sequence[Tensor], activation: str, scale: float,
    groups: int | str,
) -> Prepared | None:  # fmt: skip
    """The prepared call of checked layers, or None where another backend serves them or a core is
    not dense."""
    if observed():
        return None
    for tensor in tensors:
        if type(tensor) not in PLAIN or not tensor.is_cpu or tensor.dtype != torch.float32:
            return None
    if backends.select(op, "cpu")[0] != "cpu":
        return None
    if any(copy is not t for layer in layers for copy, t in zip(layer.dense(), layer.tensors)):
        return None
    return Prepared(layers, [*map(_data_ptr, tensors)], activation, scale, groups)


def keep(key: tuple, ready: Prepared, tensors: Sequence[Tensor]) -> None:
    """Remembers `ready` until one of its tensors dies (their identities, the key, may be reused)."""
    if len(CACHE) >= MAX_LAYERS:
        CACHE.clear()
    CACHE[key] = ready

    def forget(_: object, pop: Callable = CACHE.pop) -> None:  # bound: globals go before tensors at exit
        pop(key, None)

    ready.watch = [weakref.ref(tensor, forget) for tensor in tensors]
