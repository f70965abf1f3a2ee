"""Finds reads of weights that `restore="exact"` did not perturb."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..call.checks import extent

Extent = tuple[int, int]

_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
_unwrap = torch._C._functorch.get_unwrapped

# properties that give values; all others (shape, dtype, device, ...) give facts about the tensor
VALUE_PROPERTIES = frozenset({"data", "T", "mT", "H", "mH", "real", "imag"})
# fmt: off
FACTS = frozenset({
    "__hash__", "__len__", "__repr__", "__set__", "__delete__", "dim", "element_size", "empty_like",
    "full_like", "get_device", "is_complex", "is_contiguous", "is_floating_point", "is_inference",
    "is_pinned", "is_shared", "ndimension", "nelement", "new_empty", "new_full", "new_ones",
    "new_tensor", "new_zeros", "numel", "ones_like", "register_hook", "requires_grad_",
    "result_type", "size", "storage_offset", "stride", "zeros_like",
})
# fmt: on


def _is_fact(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", "") not in VALUE_PROPERTIES
    return name in FACTS


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


@dataclass
class Frame:
    """One running forward: what it swapped and was lent."""

    own: list[int]  # what its module may swap; the list's identity tells whose forward this is
    bases: dict[int, Tensor]  # of the trainables that it swapped
    height: dict[torch.device, int]  # of the scratch before it
    extents: list[Extent] = field(default_factory=list)  # of the scratch that it was lent, while watched
    storages: set[int] = field(default_factory=set)  # in which those lie
    aliases: list[weakref.ref[Tensor]] = field(default_factory=list)  # of results that may lie in there


class Watch(TorchFunctionMode):
    """While active, sees every tensor given to a torch function.

    `found` collects those of the trainables `due` whose base memory was read, through the parameter or
    any alias of it, and (filled in by the engine) those of a module that let a view of its scratch
    outlive its forward, such as one that returns its weight transposed. `frames` is the engine's own
    list of running forwards.
    """

    def __init__(self, params: Sequence[Tensor], due: Sequence[int], frames: Sequence[Frame]) -> None:
        super().__init__()
        self.frames = frames
        self.found: set[int] = set()
        self._places: dict[int, list[tuple[Extent, int]]] = {}
        for i in due:
            p = params[i]
            if p.numel():
                self._places.setdefault(_storage(p), []).append((extent(p), i))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if _is_fact(func):
            return func(*args, **kwargs)
        for value in args:
            if isinstance(value, Tensor):
                self._look(value)
            elif isinstance(value, (list, tuple, dict)):
                for tensor in _tensors(value):
                    self._look(tensor)
        for tensor in _tensors(kwargs) if kwargs else ():
            self._look(tensor)
        result = func(*args, **kwargs)
        lent = [frame for frame in self.frames if frame.extents]
        for tensor in map(_inner, _tensors(result)) if lent else ():
            storage = _storage(tensor)
            for frame in lent:
                if storage in frame.storages and _meet(extent(tensor), frame.extents):
                    frame.aliases.append(weakref.ref(tensor))
        return result

    def lend(self, frame: Frame, views: Iterable[Tensor]) -> None:
        """Notes the scratch that a forward was lent."""
        for view in views:
            if view.numel():
                frame.extents.append(extent(view))
                frame.storages.add(_storage(view))

    def outlived(self, frame: Frame) -> bool:
        """Whether a result of this forward, which is over, is alive and still lies in its scratch."""
        kept = [tensor for alias in frame.aliases if (tensor := alias()) is not None]
        return any(_meet(extent(tensor), frame.extents) for tensor in kept)

    def _look(self, tensor: Tensor) -> None:
        tensor = _inner(tensor)
        for place, i in self._places.get(_storage(tensor), ()):
            if _meet(place, [extent(tensor)]):
                self.found.add(i)


def _meet(one: Extent, others: Sequence[Extent]) -> bool:
    return any(one[0] < stop and start < one[1] for start, stop in others)


def _storage(tensor: Tensor) -> int:
    """Address of the tensor's storage; 0 where there is none (meta, sparse, traced)."""
    if tensor.layout != torch.strided or tensor.device.type == "meta" or not tensor.numel():
        return 0
    try:
        return tensor.data_ptr() - int(tensor.storage_offset()) * tensor.element_size()
    except (RuntimeError, NotImplementedError):  # of a tracer or a subclass
        return 0


def _inner(tensor: Tensor) -> Tensor:
    """The tensor that functorch's transforms (vmap, grad) have wrapped."""
    while not torch.compiler.is_compiling() and _is_wrapped(tensor):
        tensor = _unwrap(tensor)
    return tensor
