"""Zeroth-order optimizers: `step(closure)` from losses alone, in the manner of `torch.optim`."""

from ._steps import StepRecord
from .adam import ZOAdam, ZOAdaMax, ZOAdaMM, ZOAdamW
from .adamu import AdaMUSchedule, ZOAdaMU
from .adazeta import AdaZeta
from .base import ZerothOrderOptimizer
from .mezo import MeZO
from .schedules import PlateauAnneal, QuerySchedule
from .sparse import BlockSchedule, SparseMeZO
from .svrg import MeZOSVRG, weighted_mean
from .zo_svrg import ZOSVRG

__all__ = [
    "ZOSVRG",
    "AdaMUSchedule",
    "AdaZeta",
    "BlockSchedule",
    "MeZO",
    "MeZOSVRG",
    "PlateauAnneal",
    "QuerySchedule",
    "SparseMeZO",
    "StepRecord",
    "ZOAdaMM",
    "ZOAdaMU",
    "ZOAdaMax",
    "ZOAdam",
    "ZOAdamW",
    "ZerothOrderOptimizer",
    "weighted_mean",
]
