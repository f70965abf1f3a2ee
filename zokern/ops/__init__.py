"""One file an op: schema, fake, public function with checks and docstring."""

from ..call.tt_noise import TTNoise
from ..call.tt_plan import TTPlan
from .adam import adam_
from .adamu import adamu_probe_, adamu_update_
from .add_dense import add_dense_
from .masked import perturb_masked_
from .normal import normal, normal_
from .perturb import perturb_
from .perturbed import perturbed
from .tt import tt_adapter, tt_cost, tt_halves, tt_linear

__all__ = [
    "TTNoise",
    "TTPlan",
    "adam_",
    "adamu_probe_",
    "adamu_update_",
    "add_dense_",
    "normal",
    "normal_",
    "perturb_",
    "perturb_masked_",
    "perturbed",
    "tt_adapter",
    "tt_cost",
    "tt_halves",
    "tt_linear",
]
