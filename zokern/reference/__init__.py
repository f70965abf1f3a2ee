"""The operations in plain PyTorch: the meaning of the package, always available.

Every other backend equals these functions bit for bit. They favour being readable over being fast;
work happens in pieces of `CHUNK` elements, so a large tensor needs little extra memory.
"""

from .perturb import normal_, perturb_

OPS = {"perturb_": perturb_, "normal_": normal_}


def unavailable_reason(device_type: str) -> str | None:
    """None: plain PyTorch runs wherever PyTorch does."""
    return None
