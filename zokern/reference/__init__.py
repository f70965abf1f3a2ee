"""The operations in plain PyTorch: the meaning of the package, always available.

Every other backend equals these functions bit for bit (the tensor-train ops: to fp32 rounding). They
favour being readable over being fast; work happens in pieces of `CHUNK` elements, so a large tensor
needs little extra memory. `add_dense_`, the derivatives and all of float64's tensor trains are here
alone: the ops ask for them by the name of this backend.
"""

from .adam import adam_
from .adamu import adamu_probe_, adamu_update_
from .add_dense import add_dense_
from .masked import perturb_masked_
from .perturb import normal_, perturb_
from .tt import (
    tt_adapter,
    tt_adapter_backward,
    tt_adapter_composed,
    tt_halves,
    tt_halves_backward,
    tt_halves_composed,
    tt_linear,
    tt_linear_backward,
    tt_linear_composed,
)

_ENTRIES = (
    adam_, adamu_probe_, adamu_update_, add_dense_, normal_, perturb_, perturb_masked_, tt_adapter,
    tt_adapter_backward, tt_adapter_composed, tt_halves, tt_halves_backward, tt_halves_composed, tt_linear,
    tt_linear_backward, tt_linear_composed,
)  # fmt: skip
OPS = {entry.__name__: entry for entry in _ENTRIES}


def unavailable_reason(device_type: str) -> str | None:
    """None: plain PyTorch runs wherever PyTorch does."""
    return None
