"""Prepared calls: the checks of a layer done once, for as long as its tensors stay what they are.

At one row the kernel of an adapter takes 4 us, a quarter of what checking its twelve cores does.
`PreparedLayers` keeps what the checks found. Before each run it makes sure, in 2 us, that this still holds:
the same tensors (by identity, the cache's key), at the same addresses, of the same layout (`Unchanged`), no
autograd, no dispatch mode, the same backend asked for. If anything differs it returns None, and the caller checks everything again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .codes import DTYPE
from .dispatch import PLAIN, observed
from .memory import is_in_memory
from .tt_layers import TTLayer, check_x, count_queries
from .tt_noise import TTNoise
from .tt_plan import make_plan
from .tt_rows import check_out, through_rows
from .unchanged import Unchanged

MAX_LAYERS = 4096  # remembered in CACHE
MAX_ROWS = 1024  # remembered row counts of one layer

_DTYPE = {dtype: code for dtype, code in DTYPE.items() if dtype != torch.float64}  # of x
_data_ptr = Tensor.data_ptr
_grad_enabled = torch.is_grad_enabled
_threads = torch.get_num_threads


@dataclass(frozen=True)
class LayersKernel:
    """A backend's tensor-train op that can keep its layers bound.

    Args:
        bind: (layers, activation, scale) to a linear layer, or an adapter's two, with their addresses; it
            keeps no tensor alive. It has `call(plans, offsets)`, a call with these plans and these offsets of
            a noise (none: no noise), whose `run(x, y, rows, dtype, threads)` takes the addresses of dense rows
            and a code of `codes.DTYPE`; `run_strided(call, x, out, queries, noise)` for matrices of rows; and
            `new_rows(x, width)`, an empty y for x.
        run: the backend entry, which binds anew in every call.
    """

    bind: Callable[..., Any]
    run: Callable[..., None]

    def __call__(self, *arguments: object) -> None:
        self.run(*arguments)


class PreparedLayers:
    """A linear layer, or an adapter's two, checked and bound to a CPU backend.

    Holds no tensor: the caller passes the layer's tensors to every call, in one order. `choice` gives what
    `use_backend` asks for at present, to compare by identity.
    """

    def __init__(
        self, bound: Any, layers: tuple[TTLayer, ...], tensors: Sequence[Tensor], groups: int | str,
        choice: Callable[[], object],
    ) -> None:  # fmt: skip
        self._bound, self._new_rows = bound, bound.new_rows
        self._plans = [layer.plan for layer in layers]
        self._count = len(tensors)
        self._queries = layers[0].queries
        self._groups = groups
        self._pointers, self._unchanged = [*map(_data_ptr, tensors)], Unchanged(tensors)
        self._choice, self._asked = choice, choice()
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
            call = self._calls[plans, offsets] = self._bound.call(plans, offsets)
        return call

    def __call__(
        self, x: Tensor, tensors: Sequence[Tensor], out: Tensor | None, noise: TTNoise | None
    ) -> Tensor | None:
        """y; None: check everything again."""
        if (
            type(x) not in PLAIN
            or self._choice() is not self._asked
            or [*map(_data_ptr, tensors)] != self._pointers
            or not self._unchanged(tensors)
            or observed()
            or not x.is_cpu
            or not is_in_memory(x)
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
            y = self._new_rows(x, self._out)
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
        """Whether `out` is dense, of y's shape and dtype, and shares no memory with x."""
        if (
            type(out) not in PLAIN
            or not is_in_memory(out)
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
        y = self._new_rows(x, self._out) if out is None else out
        rows = x.numel() // self._in[0]
        if rows:
            call = self._call(rows // (queries or 1), () if noise is None else noise.positions)
            through_rows(x, y, lambda a, b: self._bound.run_strided(call, a, b, queries, noise))
        if out is not None and not out.is_inference():
            torch.autograd.graph.increment_version(out)
        return y


CACHE: dict[tuple, PreparedLayers] = {}


def may_be_prepared(tensors: Sequence[Tensor]) -> bool:
    """Whether nothing but a CPU kernel is to see a call of these cores and biases."""
    if observed():
        return False
    return all(is_in_memory(t) and t.is_cpu and t.dtype == torch.float32 for t in tensors)


def prepare(
    kernel: object, layers: tuple[TTLayer, ...], tensors: Sequence[Tensor], activation: str, scale: float,
    groups: int | str, choice: Callable[[], object],
) -> PreparedLayers | None:  # fmt: skip
    """The prepared call of checked layers whose tensors `may_be_prepared`.

    None: the kernel binds no layers, or a core is not dense."""
    if not isinstance(kernel, LayersKernel):
        return None
    for layer in layers:
        if any(dense is not t for dense, t in zip(layer.made_dense().tensors, layer.tensors)):
            return None
    return PreparedLayers(kernel.bind(layers, activation, scale), layers, tensors, groups, choice)


def keep(key: tuple, ready: PreparedLayers, tensors: Sequence[Tensor]) -> None:
    """Remembers `ready` until one of its tensors dies (their identities, the key, may be reused)."""
    if len(CACHE) >= MAX_LAYERS:
        CACHE.clear()
    CACHE[key] = ready

    def forget(_: object, pop: Callable = CACHE.pop) -> None:  # bound: globals go before tensors at exit
        pop(key, None)

    ready.watch = [weakref.ref(tensor, forget) for tensor in tensors]
