"""The `torch.ops.zokern` library. `define`/`impl` costs 1.4 us a call; `@custom_op` costs 12."""

from __future__ import annotations

from collections.abc import Callable

import torch

LIBRARY = torch.library.Library("zokern", "DEF")

PLAIN = (torch.Tensor, torch.nn.Parameter)
"""Types with no behaviour of their own when an op is called."""

_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_transform = torch._C._functorch.peek_interpreter_stack
_tracing = torch._C._get_tracing_state


def observed() -> bool:
    """Whether a dispatch mode, a transform or a tracer is to see the ops, so that they must be dispatched."""
    return bool(_modes()) or _transform() is not None or _tracing() is not None


def define(schema: str, implementation: Callable[..., object], fake: Callable[..., object]) -> None:
    """Registers an op once: its schema, one implementation for every device (it asks
    `zokern.backends` which kernel serves), and what it does to fake tensors."""
    name = LIBRARY.define(schema)
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"zokern::{name}", fake, lib=LIBRARY)


def to_signed(seed: int) -> int:
    """Unsigned 64-bit seed as the signed int a schema can carry."""
    return seed - (1 << 64) if seed >= 1 << 63 else seed


def to_unsigned(seed: int) -> int:
    return seed & 0xFFFFFFFFFFFFFFFF
