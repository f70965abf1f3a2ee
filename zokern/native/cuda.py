"""The CUDA backend: one launch for a whole list of tensors, on PyTorch's current stream."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ._lists import list_ops
from .states import state_ops
from .tt_cuda import tt_ops

try:
    from .. import _C
except ImportError as error:
    _C = None  # type: ignore[assignment]
    _reason = f"this installation has no compiled kernels ({error}); install with nvcc"


def unavailable_reason(device_type: str) -> str | None:
    if _C is None:
        return _reason
    if device_type != "cuda":
        return f"it runs on CUDA tensors, not {device_type}"
    if _C.cuda_device_count() == 0:
        return _C.cuda_last_error() or "no CUDA device was found"
    return None if torch.cuda.is_available() else "this PyTorch was built without CUDA"


def _machine(device: torch.device) -> tuple[int, int]:
    """Index of the device, and PyTorch's current stream on it."""
    index = torch.cuda.current_device() if device.index is None else device.index
    return index, torch.cuda.current_stream(device).cuda_stream


OPS: dict[str, Callable[..., None]] = {}
if _C is not None:
    OPS |= list_ops(_C.cuda_perturb, _machine)
    OPS |= state_ops(_C.cuda_perturb_masked, _C.cuda_adam, _C.cuda_adamu, _machine)
    OPS |= tt_ops(_C, _machine)
