"""Whether PyTorch is to see an op, and seeds as a schema carries them."""

from __future__ import annotations

from collections.abc import Callable

import torch

PLAIN = (torch.Tensor, torch.nn.Parameter)
"""Types with no behaviour of their own when an op is called."""

_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_transform = torch._C._functorch.peek_interpreter_stack
_tracing = torch._C._get_tracing_state


def observed() -> bool:
    """Whether a dispatch mode, a transform or a tracer is to see the ops, so that they must be dispatched."""
    return bool(_modes()) or _transform() is not None or _tracing() is not None


def to_signed(seed: int) -> int:
    """Unsigned 64-bit seed as the signed int a schema can carry."""
    return seed - (1 << 64) if seed >= 1 << 63 else seed


def to_unsigned(seed: int) -> int:
    return seed & 0xFFFFFFFFFFFFFFFF
