"""Zeroth-order optimizers: `step(closure)` from losses alone, in the manner of `torch.optim`."""

from .adam import ZOAdam, ZOAdaMax, ZOAdaMM, ZOAdamW
from .adamu import ZOAdaMU
from .adazeta import AdaZeta
from .base import ZerothOrderOptimizer
from .mezo import MeZO
from .perturb_blocks import Blocks, BlockSchedule
from .perturb_masked import GivenMasks, SmallWeights
from .perturb_momentum import AdaMUSchedule, Momentum
from .perturbation import FullNoise, Perturbation
from .record import Estimate, StepRecord
from .schedules import PlateauAnneal, QuerySchedule
from .sparse import SparseMeZO
from .svrg import MeZOSVRG, weighted_mean
from .zo_svrg import ZOSVRG

__all__ = [
    "ZOSVRG",
    "AdaMUSchedule",
    "AdaZeta",
    "BlockSchedule",
    "Blocks",
    "Estimate",
    "FullNoise",
    "GivenMasks",
    "MeZO",
    "MeZOSVRG",
    "Momentum",
    "Perturbation",
    "PlateauAnneal",
    "QuerySchedule",
    "SmallWeights",
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
