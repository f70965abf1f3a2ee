"""Numbers as tables, legends and files have them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any


def mean_std(values: Sequence[float], spec: str = ".3g", scale: float = 1.0) -> str:
    """ "0.91 ± 0.02", the standard deviation over seeds; one value stands alone. A run that diverged
    makes the whole "diverged"."""
    values = [scale * v for v in values]
    if not all(math.isfinite(v) for v in values):
        return "diverged"
    if len(values) == 1:
        return f"{values[0]:{spec}}"
    return f"{statistics.fmean(values):{spec}} ± {statistics.stdev(values):{spec}}"


def short(value: float) -> str:
    """ "3e-4": a rate as tables and legends have it."""
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e") if value < 0.01 else f"{value:g}"


def median(values: Sequence[float]) -> float:
    """The median, with values that are not finite counting as the largest."""
    return statistics.median(v if math.isfinite(v) else math.inf for v in values)


def plain(value: Any) -> Any:
    """Numbers in four digits, and None for what JSON has no number for."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def from_json(value: Any) -> Any:
    """The inverse: None is nan again."""
    if isinstance(value, dict):
        return {k: from_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [from_json(v) for v in value]
    return math.nan if value is None else value
