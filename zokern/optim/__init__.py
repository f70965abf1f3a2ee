"""Zeroth-order optimizers: `step(closure)` from losses alone, in the manner of `torch.optim`."""

from ._steps import StepRecord
from .base import ZerothOrderOptimizer
from .mezo import MeZO
from .schedules import PlateauAnneal, QuerySchedule
from .svrg import ZOSVRG, MeZOSVRG, weighted_mean

__all__ = [
    "ZOSVRG",
    "MeZO",
    "MeZOSVRG",
    "PlateauAnneal",
    "QuerySchedule",
    "StepRecord",
    "ZerothOrderOptimizer",
    "weighted_mean",
]
