"""The `torch.ops.zokern` library. `define`/`impl` costs 1.4 us a call; `@custom_op` costs 12."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..call.dispatch import to_signed, to_unsigned
from ..call.lists import Lists, tell_autograd

LIBRARY = torch.library.Library("zokern", "DEF")
_PLACES = ("thresholds", "streams", "offsets")  # lists with an entry a tensor, beside lists of tensors


def define(
    schema: str, implementation: Callable[..., object], fake: Callable[..., object] = lambda *_: None
) -> None:
    """Registers an op once: its schema, one implementation for every device (it asks
    `zokern.backends` which kernel serves), and what it does to fake tensors."""
    name = LIBRARY.define(schema)
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"zokern::{name}", fake, lib=LIBRARY)


class ListOp:
    """An op that writes a list of tensors, registered in place (`perturb_`) and with `out` (`perturb_out`).

    Args:
        name: of the op in place, and of the backends' entry.
        schema: of its arguments after `params` and `out`; `!` marks state that it writes. They are those of
            the backends' entry, which gets seeds without sign and a rule in place of its numbers.
        rule: the class of the argument `rule`.
        backend: the one that serves, whatever was asked for.
    """

    def __init__(self, name: str, schema: str, rule: Any = None, backend: str | None = None) -> None:
        self._name, self._backend = name, backend
        declared = [argument.rsplit(" ", 1) for argument in schema.split(", ")]
        self._written = [k for k, (kind, _) in enumerate(declared) if "!" in kind]
        self._lists = [k for k, (kind, of) in enumerate(declared) if "Tensor" in kind or of in _PLACES]
        carried: dict[str, tuple[Callable, Callable]] = {  # to what a schema can carry, and back
            "seed": (to_signed, to_unsigned),
            "seeds": (lambda seeds: [*map(to_signed, seeds)], lambda seeds: [*map(to_unsigned, seeds)]),
        }
        if rule is not None:
            carried["rule"] = (rule.as_list, rule.from_list)
        self._carried = [(k, *carried[of]) for k, (_, of) in enumerate(declared) if of in carried]
        define(f"{name}(Tensor(a!)[] params, {schema}) -> ()", self._run_in_place)
        define(f"{name}out(Tensor[] params, Tensor(a!)[] out, {schema}) -> ()", self._run)
        self._in_place, self._out = (getattr(torch.ops.zokern, op) for op in (name, f"{name}out"))

    def __call__(self, lists: Lists, *arguments: Any) -> None:
        """Runs the op on checked lists, and tells autograd what it wrote."""
        if lists.is_empty():
            return
        values = [*arguments]
        for k, carry, _ in self._carried:
            values[k] = carry(values[k])
        if lists.in_place:
            self._in_place(lists.params, *values)
        else:
            self._out(lists.params, lists.out, *values)
        written = [*lists.out]
        for k in self._written:
            written += arguments[k]
        tell_autograd(written)

    def _run(self, params: list[Tensor], out: list[Tensor], *arguments: Any) -> None:
        """The kernel, on the tensors that have elements."""
        _, kernel = backends.select(self._name, params[0].device.type, self._backend)
        values = [*arguments]
        for k, _, back in self._carried:
            values[k] = back(values[k])
        if not all(map(Tensor.numel, params)):
            kept = [i for i, p in enumerate(params) if p.numel()]
            params, out = [params[i] for i in kept], [out[i] for i in kept]
            for k in self._lists:
                values[k] = [values[k][i] for i in kept] if values[k] else []
        kernel(params, out, *values)

    def _run_in_place(self, params: list[Tensor], *arguments: Any) -> None:
        self._run(params, params, *arguments)
