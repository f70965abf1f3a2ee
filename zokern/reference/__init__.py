"""The operations in plain PyTorch: the meaning of the package, always available.

Every other backend equals these functions bit for bit (the tensor-train ops: to fp32 rounding). They
favour being readable over being fast; work happens in pieces of `CHUNK` elements, so a large tensor
needs little extra memory.
"""

from .adam import adam_
from .adamu import adamu_probe_, adamu_update_
from .masked import perturb_masked_
from .perturb import normal_, perturb_
from .tt import tt_adapter, tt_halves, tt_linear

OPS = {
    "perturb_": perturb_,
    "normal_": normal_,
    "perturb_masked_": perturb_masked_,
    "adam_": adam_,
    "adamu_probe_": adamu_probe_,
    "adamu_update_": adamu_update_,
    "tt_halves": tt_halves,
    "tt_linear": tt_linear,
    "tt_adapter": tt_adapter,
}


def unavailable_reason(device_type: str) -> str | None:
    """None: plain PyTorch runs wherever PyTorch does."""
    return None
