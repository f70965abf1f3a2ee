"""The methods of `zokern train`, one file a family. A new one is a `Method` of its file's METHODS, and its file
in `_FAMILIES` below; one from outside is an entry of `METHODS`:

    METHODS["mine"] = Method("mine", "what it does", build=lambda model, o: MyOptimizer(model, lr=o.lr, ...))

The loop calls `method.step(optimizer, closures, progress)` once per step and logs the losses the
optimizer saw (`optimizer.last.losses`); resuming repeats the steps from the log with
`method.replay`, no forward. Any `ZerothOrderOptimizer` whose `step` takes only the closure needs
neither written. Nothing outside a method's file knows it by name.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from zokern.app.fields import flag, in_flags, shown
from zokern.app.methods import adam, adamu, adazeta, first_order, mezo, sparse, svrg
from zokern.app.methods.base import Closures, Method, Progress, full_size
from zokern.app.methods.first_order import FIRST_ORDER_STEP
from zokern.app.options import TrainOptions
from zokern.app.tasks import UserError

__all__ = [
    "FIRST_ORDER_STEP",
    "METHODS",
    "Closures",
    "Method",
    "Progress",
    "build_optimizer",
    "check_method",
    "full_size",
    "readers",
]

_FAMILIES = (mezo, adazeta, adam, adamu, svrg, sparse, first_order)

METHODS: dict[str, Method] = {method.name: method for family in _FAMILIES for method in family.METHODS}


def _named(name: str) -> Method:
    if name not in METHODS:
        raise UserError(f"--method: Unknown method {name!r}; known: {', '.join(METHODS)}.")
    return METHODS[name]


def readers(option: str) -> list[str]:
    """Names of the methods that read an option which only some do."""
    return [name for name, method in METHODS.items() if option in (method.reads or ())]


def check_method(options: TrainOptions) -> Method:
    """The method named in the options.

    Raises:
        UserError: it is unknown, or an option was changed that it does not read.
    """
    method = _named(options.method)
    for field in dataclasses.fields(options):
        unread = not method.takes(field.name) and readers(field.name)
        if unread and getattr(options, field.name) != field.default:
            raise UserError(
                f"--method {options.method} does not read {flag(field.name)}; drop it "
                f"(it is for {', '.join(unread)}), got {shown(getattr(options, field.name))}."
            )
    return method


def build_optimizer(model: nn.Module, options: TrainOptions) -> tuple[Method, Any]:
    """The method named in the options and its optimizer over `model`'s trainable parameters.

    Raises:
        UserError: unknown method, or options it rejects.
    """
    method = _named(options.method)
    try:
        return method, method.build(model, options)
    except (ValueError, TypeError) as error:
        text = in_flags(str(error), {field.name for field in dataclasses.fields(options)})
        raise UserError(f"Method {options.method} rejects its options: {text}") from None
