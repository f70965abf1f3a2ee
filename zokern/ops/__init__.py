"""One file an op: schema, fake, public function with checks and docstring."""

from .normal import normal
from .perturb import perturb_

__all__ = ["normal", "perturb_"]
