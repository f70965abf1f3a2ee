"""zokern: kernels for zeroth-order optimization, training with forward passes only."""

from . import backends, moved
from .backends import use_backend
from .ops import (
    TTNoise,
    TTPlan,
    adam_,
    adamu_probe_,
    adamu_update_,
    normal,
    perturb_,
    perturb_masked_,
    tt_adapter,
    tt_cost,
    tt_halves,
    tt_linear,
)
from .random import STREAM_VERSION, derive_seed
from .version import __version__

from . import nn, optim  # isort: skip  (they use the ops)

moved.install()

__all__ = [
    "STREAM_VERSION",
    "TTNoise",
    "TTPlan",
    "__version__",
    "adam_",
    "adamu_probe_",
    "adamu_update_",
    "backends",
    "derive_seed",
    "nn",
    "normal",
    "optim",
    "perturb_",
    "perturb_masked_",
    "tt_adapter",
    "tt_cost",
    "tt_halves",
    "tt_linear",
    "use_backend",
]
