"""Lists of tensors as the ops take them: what is read, what is written, where each lies in the stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import as_list, check_bounded, check_no_grad, check_no_overlap, check_tensors
from .codes import DTYPES
from .memory import check_all_in_memory

Tensors = Tensor | Iterable[Tensor]


@dataclass(frozen=True)
class Lists:
    """Checked lists of equal length; `out is params` in place."""

    params: list[Tensor]
    out: list[Tensor]
    states: list[list[Tensor]]
    streams: list[int]
    offsets: list[int]

    @property
    def in_place(self) -> bool:
        return self.out is self.params

    def is_empty(self) -> bool:
        return not any(map(Tensor.numel, self.params))


def tell_autograd(written: list[Tensor]) -> None:
    """Counts a write in place of each tensor, as an op made with `define` does not."""
    if any(map(Tensor.is_inference, written)):
        written = [t for t in written if not t.is_inference()]
    torch.autograd.graph.increment_version(written)


def check_lists(
    params: Tensors,
    out: Tensors | None,
    streams: Sequence[int] | None,
    offsets: Sequence[int] | None,
    states: Mapping[str, Tensors] | None = None,
    alike: Sequence[str] = ("shape", "dtype", "device"),
) -> Lists:
    """Checks tensors, places and overlap. `states` are fp32 tensors of the params' shapes, written in
    place, each list under its argument's name. `alike`: what `out` has in common with `params`."""
    sources = as_list(params, Tensor)
    check_tensors("params", sources)
    check_all_in_memory("params", sources)
    count = len(sources)
    stream_list = list(range(count)) if streams is None else check_bounded("streams", streams, count, 32)
    offset_list = [0] * count if offsets is None else check_bounded("offsets", offsets, count, 63)
    targets = sources
    if out is not None:
        targets = as_list(out, Tensor, "out")
        check_alike("out", targets, sources, alike)
    devices = [tensor.device for tensor in sources]
    if len(set(devices)) > 1:
        i = next(i for i, device in enumerate(devices) if device != devices[0])
        raise ValueError(f"params[{i}] is on {devices[i]} and params[0] on {devices[0]}; one device a call")
    state_lists = {name: as_list(tensors, Tensor, name) for name, tensors in (states or {}).items()}
    for name, tensors in state_lists.items():
        check_alike(name, tensors, sources, ("shape", "device"), (torch.float32,))
    check_no_grad("params" if out is None else "out", targets)
    for name, tensors in state_lists.items():
        check_no_grad(name, tensors)
    check_no_overlap(params=sources, **({} if out is None else {"out": targets}), **state_lists)
    return Lists(sources, targets, list(state_lists.values()), stream_list, offset_list)


def check_alike(
    name: str,
    tensors: Sequence[Tensor],
    sources: Sequence[Tensor],
    what: Sequence[str],
    dtypes: Sequence[torch.dtype] = DTYPES,
) -> None:
    """As many tensors as `sources`, each with the same shape (dtype, device)."""
    if len(tensors) != len(sources):
        raise ValueError(f"{name} has {len(tensors)} tensors for {len(sources)} in params")
    check_tensors(name, tensors, dtypes)
    check_all_in_memory(name, tensors)
    for attribute in what:
        found = [getattr(t, attribute) for t in tensors]
        wanted = [getattr(t, attribute) for t in sources]
        if found != wanted:
            i = next(i for i, (a, b) in enumerate(zip(found, wanted)) if a != b)
            raise ValueError(f"{name}[{i}] has {attribute} {found[i]}, params[{i}] has {wanted[i]}")
