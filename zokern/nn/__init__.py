"""Tensor-train layers and adapters, and what puts them into a model."""

import importlib
import warnings
from typing import Any

from ..moved import MOVED
from .factorize import factorize
from .inject import TTAdapters, add_tt_adapters, find_tt_adapters, remove_tt_adapters
from .packed import TTParameters, pack
from .save import load_tt_adapters, save_tt_adapters
from .tt_adapter import TTAdapter
from .tt_linear import TTLinear

__all__ = [
    "TTAdapter",
    "TTAdapters",
    "TTLinear",
    "TTParameters",
    "add_tt_adapters",
    "factorize",
    "find_tt_adapters",
    "load_tt_adapters",
    "pack",
    "remove_tt_adapters",
    "save_tt_adapters",
]


def __getattr__(name: str) -> Any:
    """The names of the parameter report, which the app has now: given here for one release."""
    if name not in ("ParameterReport", "parameter_report"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    now = MOVED[f"{__name__}.report"]
    warnings.warn(f"{__name__}.{name} is now {now}.{name}", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module(now), name)
