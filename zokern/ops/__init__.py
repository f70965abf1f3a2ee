"""One file an op: schema, fake, public function with checks and docstring."""

from .adam import adam_
from .adamu import adamu_probe_, adamu_update_
from .masked import perturb_masked_
from .normal import normal
from .perturb import perturb_

__all__ = ["adam_", "adamu_probe_", "adamu_update_", "normal", "perturb_", "perturb_masked_"]
