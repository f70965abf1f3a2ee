"""Whether a tensor's elements lie at its address, where a kernel reads and writes them.

PyTorch has tensors whose address says nothing of their elements: a negated view that no one has written out,
a zero tensor without memory, storage that was freed, wrappers around other tensors. Each is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import ge

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .dispatch import PLAIN, forward_mode, has_tangent, observed

is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
"""Whether a tensor stands for others inside a transform of `torch.func`."""


_PLAIN = set(PLAIN)
_is_contiguous, _offset, _is_neg = Tensor.is_contiguous, Tensor.storage_offset, Tensor.is_neg
_data_ptr = Tensor.data_ptr
_storage, _storage_bytes = Tensor.untyped_storage, torch.UntypedStorage.nbytes
_is_nested = Tensor.is_nested.__get__  # type: ignore[attr-defined]
_nbytes = Tensor.nbytes.__get__  # type: ignore[attr-defined]


def _bytes(tensor: Tensor) -> int:
    """Bytes of storage that the tensor's elements reach to."""
    last = tensor.storage_offset()
    if tensor.is_contiguous():
        last += tensor.numel()
    else:
        last += 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return int(last * tensor.element_size())


def is_in_memory(tensor: Tensor) -> bool:
    try:
        if type(tensor) not in PLAIN or tensor.is_neg() or tensor.is_nested:
            return False
        if tensor.numel() == 0:
            return True
        return tensor.data_ptr() != 0 and tensor.untyped_storage().nbytes() >= _bytes(tensor)
    except (RuntimeError, NotImplementedError):  # a wrapper has no storage
        return False


def _all_dense(tensors: Sequence[Tensor]) -> bool:
    """`is_in_memory` of all of a list as nearly all are, dense from the start of their storage: asked in bulk."""
    try:
        return (
            _PLAIN.issuperset(map(type, tensors))
            and all(map(_is_contiguous, tensors))
            and all(map(_data_ptr, tensors))
            and not any(map(_offset, tensors))
            and not any(map(_is_neg, tensors))
            and not any(map(_is_nested, tensors))
            and all(map(ge, map(_storage_bytes, map(_storage, tensors)), map(_nbytes, tensors)))
        )
    except (RuntimeError, NotImplementedError):
        return False


def check_in_memory(name: str, tensor: Tensor, transforms: bool = False) -> None:
    """The tensor's elements lie at its address; or it has none, as meta and fake tensors.

    Args:
        name: of the argument.
        tensor: of a supported dtype and layout.
        transforms: whether the op goes through `torch.func` transforms.

    Raises:
        TypeError: a wrapper around other tensors: DTensor, nested, functional, inside a transform.
        ValueError: a negated view, a zero tensor without memory, freed storage.
    """
    if (
        torch.compiler.is_compiling()
        or is_in_memory(tensor)
        or tensor.is_meta
        or isinstance(tensor, FakeTensor)
    ):
        return
    kind = type(tensor)
    if is_wrapped(tensor):
        if transforms:
            return
        raise TypeError(
            f"{name} is inside a transform of torch.func (vmap, grad, jvp), where it has no memory of its own "
            f"to write; call outside of it"
        )
    wraps = kind.__torch_dispatch__ is not Tensor.__torch_dispatch__
    if wraps or tensor.is_nested or torch._is_functional_tensor(tensor):
        distributed = kind.__name__ == "DTensor"
        if observed() and not distributed and not tensor.is_nested:
            return  # a mode that makes such tensors takes them apart
        what = "functional tensor" if not wraps and not tensor.is_nested else kind.__name__
        what = "nested tensor" if tensor.is_nested else what
        local = ": its part on this rank is to_local()" if distributed else ""
        raise TypeError(f"{name} is a {what}; plain tensors are supported{local}")
    if kind not in PLAIN:
        return
    if tensor.is_neg():
        raise ValueError(
            f"{name} is a negated view (is_neg) whose memory holds other values; resolve_neg() it"
        )
    if tensor._is_zerotensor():
        raise ValueError(f"{name} is a zero tensor without memory (torch._efficientzerotensor); clone() it")
    have = tensor.untyped_storage().nbytes()
    raise ValueError(f"{name} needs {_bytes(tensor)} bytes of storage and has {have}: its memory was freed")


def resolved(tensor: Tensor) -> Tensor:
    """A tensor that is read, with its own memory: negated values and zeros without memory written out."""
    if tensor._is_zerotensor():
        return torch.zeros_like(tensor)
    return tensor.resolve_neg()


def check_all_in_memory(name: str, tensors: Sequence[Tensor]) -> None:
    """`check_in_memory` of each tensor of a list that an op writes or reads."""
    if torch.compiler.is_compiling():
        return
    for i, tensor in enumerate(() if _all_dense(tensors) else tensors):
        if not is_in_memory(tensor):
            check_in_memory(f"{name}[{i}]", tensor)
    if forward_mode() and any(map(has_tangent, tensors)):
        i = next(i for i, tensor in enumerate(tensors) if has_tangent(tensor))
        raise RuntimeError(
            f"{name}[{i}] carries a tangent (forward-mode derivatives), which this op would lose; detach() it"
        )
