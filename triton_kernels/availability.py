"""Whether the triton backend can serve a device type, and if not, why."""

from __future__ import annotations

import torch
import triton

from .perturb import INTERPRETED

# the oldest that tests/triton compiles for
MIN_CAPABILITY = (8, 0)
# older versions take no tuples as kernel arguments
MIN_TRITON = (3, 3)


def unavailable_reason(device_type: str) -> str | None:
    """A sentence saying why tensors on `device_type` cannot be served, or None when they can.

    "cuda" needs a device, of compute capability 8.0 at least if it is NVIDIA's; "cpu" needs
    Triton's interpreter, which is slow and exists for tests.
    """
    if tuple(map(int, triton.__version__.split(".")[:2])) < MIN_TRITON:
        return f"triton {triton.__version__} is installed; 3.3 or newer is needed"
    if device_type == "cuda":
        if not torch.cuda.is_available():
            return "PyTorch sees no CUDA device"
        capability = torch.cuda.get_device_capability()
        if torch.version.hip is None and capability < MIN_CAPABILITY:
            have, need = (".".join(map(str, c)) for c in (capability, MIN_CAPABILITY))
            return f"the CUDA device has compute capability {have}; {need} is needed"
        return None
    if device_type == "cpu":
        if INTERPRETED:
            return None
        return (
            "Triton serves the CPU only through its interpreter; "
            "set TRITON_INTERPRET=1 before the first import of zokern"
        )
    return f"the triton backend serves cuda devices, not {device_type}"
