"""Zeroth-order optimizers: `step(closure)` from losses alone, in the manner of `torch.optim`."""

from ._steps import StepRecord
from .base import ZerothOrderOptimizer
from .mezo import MeZO
from .schedules import QuerySchedule

__all__ = ["MeZO", "QuerySchedule", "StepRecord", "ZerothOrderOptimizer"]
