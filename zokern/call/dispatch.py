"""Whether PyTorch is to see an op, and seeds as a schema carries them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.autograd import forward_ad

PLAIN = (torch.Tensor, torch.nn.Parameter)
"""Types with no behaviour of their own when an op is called."""

_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_transform = torch._C._functorch.peek_interpreter_stack
_tracing = torch._C._get_tracing_state


def forward_mode() -> bool:
    """Whether forward-mode derivatives are recorded (`torch.autograd.forward_ad`, `torch.func.jvp`)."""
    return forward_ad._current_level >= 0


def transformed() -> bool:
    """Whether a transform of `torch.func` is in force: vmap, grad, vjp, jvp."""
    return _transform() is not None


def has_tangent(tensor: torch.Tensor) -> bool:
    """Whether a tensor carries a forward-mode derivative, while `forward_mode`."""
    return forward_ad.unpack_dual(tensor).tangent is not None


def observed() -> bool:
    """Whether a dispatch mode, a transform or a tracer is to see the ops, so that they must be dispatched."""
    return bool(_modes()) or _transform() is not None or _tracing() is not None or forward_mode()


def to_signed(seed: int) -> int:
    """Unsigned 64-bit seed as the signed int a schema can carry."""
    return seed - (1 << 64) if seed >= 1 << 63 else seed


def to_unsigned(seed: int) -> int:
    return seed & 0xFFFFFFFFFFFFFFFF
