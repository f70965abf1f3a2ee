"""Prepared lists: what the checks of a list found, for as long as that stays so.

Checking and packing 148 tensors takes 0.4 ms (benchmarks/bench_calls.py). A list met for the second time is
kept as the backend takes it, under its addresses and places in the stream. Each later call compares what the
checks rest on: sizes, strides, dtypes and what else `Unchanged` does. If any of it differs, or if a mode, a transform, a tracer or a
profiler is to see the op, the list is checked and packed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .dispatch import PLAIN, observed
from .unchanged import Unchanged

MAX_LISTS = 512  # remembered

_SEQUENCES = (list, tuple, range)
_PLAIN = set(PLAIN)
_data_ptr = Tensor.data_ptr
_requires_grad = Tensor.requires_grad.__get__  # type: ignore[attr-defined]
_profiling = torch.autograd._profiler_enabled

Key = tuple[Any, ...]


@dataclass(frozen=True, eq=False)  # a key of the cache: by identity
class ListKernel:
    """A backend's `perturb_` that takes a list as it was bound by an earlier call.

    Args:
        bind: (params, out, streams, offsets) to what `run` takes: addresses, sizes and places. It keeps no
            tensor alive.
        run: (bound list, device, seeds, scales, decay, lane, distribution, rounding).
    """

    bind: Callable[..., Any]
    run: Callable[..., None]

    def __call__(
        self, params: list[Tensor], out: list[Tensor], seeds: list[int], scales: list[float], decay: float,
        streams: list[int], offsets: list[int], distribution: str, rounding: str,
    ) -> None:  # fmt: skip
        """Backend entry; arguments as checked and normalised by `zokern.ops.perturb`."""
        bound = self.bind(params, out, streams, offsets)
        self.run(bound, params[0].device, seeds, scales, decay, 0, distribution, rounding)


@dataclass(frozen=True)
class PreparedList:
    """A list of dense tensors, none of them empty, bound to be written in place."""

    kernel: ListKernel
    bound: Any  # by the kernel
    device: torch.device
    unchanged: Unchanged

    def run(self, *arguments: object) -> None:
        self.kernel.run(self.bound, self.device, *arguments)


CACHE: dict[Key, PreparedList | None] = {}  # None: met once


def may_be_kept(tensors: list[Tensor]) -> bool:
    """Whether nothing but the kernel is to see a call in place on these tensors."""
    if not tensors or not _PLAIN.issuperset(map(type, tensors)):
        return False
    if torch.is_grad_enabled() and any(map(_requires_grad, tensors)):
        return False
    return not (observed() or _profiling())


def key_of(
    kernel: object, tensors: list[Tensor], streams: Sequence[int] | None, offsets: Sequence[int] | None
) -> Key | None:
    """(kernel, places, addresses) of a call in place on tensors that may be kept.

    None: check and pack, and keep nothing."""
    if not isinstance(kernel, ListKernel):
        return None
    places: list[tuple[int, ...] | None] = []
    for given in (streams, offsets):
        if given is not None and (type(given) not in _SEQUENCES or not {int}.issuperset(map(type, given))):
            return None  # an iterator is read once, and 1.0 would find the list kept for 1
        places.append(None if given is None else tuple(given))
    try:
        return (kernel, *places, *map(_data_ptr, tensors))
    except RuntimeError:  # a sparse tensor has no address
        return None


def find(key: Key | None, tensors: list[Tensor]) -> PreparedList | None:
    """What is kept under `key`, if it holds for these tensors."""
    ready = None if key is None else CACHE.get(key)
    return ready if ready is not None and ready.unchanged(tensors) else None


def keep(key: Key | None, tensors: list[Tensor], streams: list[int], offsets: list[int]) -> None:
    """Remembers a list that has passed all checks."""
    if key is None or not all(t.numel() and t.is_contiguous() for t in tensors):
        return
    met = key in CACHE
    if len(CACHE) >= MAX_LISTS:
        CACHE.clear()
    if not met:
        CACHE[key] = None
        return
    bound = key[0].bind(tensors, tensors, streams, offsets)
    CACHE[key] = PreparedList(key[0], bound, tensors[0].device, Unchanged(tensors))
