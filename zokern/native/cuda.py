"""The CUDA backend: one launch for a whole list of tensors, on PyTorch's current stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..call.codes import DISTRIBUTION, ROUNDING
from ..call.prepared import ListKernel
from ._lists import bind_list, pack
from .states import state_ops
from .tt_cuda import tt_ops

if TYPE_CHECKING:
    from .._C import TensorList

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


def _run(tensors: TensorList, device: torch.device, seeds: list[int], scales: list[float],
         decay: float, lane: int, distribution: str, rounding: str) -> None:  # fmt: skip
    _C.cuda_perturb(tensors, seeds, scales, decay, lane, DISTRIBUTION[distribution],
                    ROUNDING[rounding], *_machine(device))  # fmt: skip


def normal_(out: Tensor, seed: int, stream: int, lane: int, offset: int, distribution: str) -> None:
    """Fills `out`: a move from zeros with scale 1."""
    tensors = _C.TensorList([pack(None, out, stream, offset)])
    _run(tensors, out.device, [seed], [1.0], 1.0, lane, distribution, "nearest")


OPS = {"perturb_": ListKernel(bind_list, _run), "normal_": normal_}
if _C is not None:
    OPS |= state_ops(_C.cuda_perturb_masked, _C.cuda_adam, _C.cuda_adamu, _machine)
    OPS |= tt_ops(_C, _machine)
