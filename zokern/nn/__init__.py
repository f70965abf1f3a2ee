"""Tensor-train layers and adapters, and what puts them into a model."""

from .factorize import factorize
from .inject import TTAdapters, add_tt_adapters, find_tt_adapters, remove_tt_adapters
from .packed import TTParameters, pack
from .report import ParameterReport, parameter_report
from .save import load_tt_adapters, save_tt_adapters
from .tt_adapter import TTAdapter
from .tt_linear import TTLinear

__all__ = [
    "ParameterReport",
    "TTAdapter",
    "TTAdapters",
    "TTLinear",
    "TTParameters",
    "add_tt_adapters",
    "factorize",
    "find_tt_adapters",
    "load_tt_adapters",
    "pack",
    "parameter_report",
    "remove_tt_adapters",
    "save_tt_adapters",
]
