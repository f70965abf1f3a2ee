"""zokern: kernels for zeroth-order optimization, training with forward passes only."""

from . import backends
from .backends import use_backend
from .ops import adam_, adamu_probe_, adamu_update_, normal, perturb_, perturb_masked_
from .random import STREAM_VERSION, derive_seed
from .version import __version__

__all__ = [
    "STREAM_VERSION",
    "__version__",
    "adam_",
    "adamu_probe_",
    "adamu_update_",
    "backends",
    "derive_seed",
    "normal",
    "perturb_",
    "perturb_masked_",
    "use_backend",
]
