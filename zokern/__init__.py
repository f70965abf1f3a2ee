"""zokern: kernels for zeroth-order optimization, training with forward passes only."""

from . import backends
from .backends import use_backend
from .ops import normal, perturb_
from .random import STREAM_VERSION, derive_seed
from .version import __version__

__all__ = [
    "STREAM_VERSION",
    "__version__",
    "backends",
    "derive_seed",
    "normal",
    "perturb_",
    "use_backend",
]
