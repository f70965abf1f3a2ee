"""zokern: kernels for zeroth-order optimization, training with forward passes only."""

from . import backends, moved, ops
from .backends import use_backend
from .ops import *  # noqa: F403  (every op has the name it has there)
from .random import STREAM_VERSION, derive_seed
from .version import __version__

from . import nn, optim  # isort: skip  (they use the ops)

moved.install()

__all__ = [
    "STREAM_VERSION",
    "__version__",
    "backends",
    "derive_seed",
    "nn",
    "optim",
    "use_backend",
    *ops.__all__,
]
