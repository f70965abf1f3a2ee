"""What PyTorch keeps of weights' former values."""

from __future__ import annotations

import torch
from torch.nn.utils import parametrize


def forget_derived() -> None:
    """Drops tensors that were made of weights and are kept for their next use, for the weights have moved:
    the 16-bit casts of an outer `torch.autocast`, and what `parametrize.cached()` holds."""
    torch.clear_autocast_cache()
    if parametrize._cache_enabled:
        parametrize._cache.clear()
