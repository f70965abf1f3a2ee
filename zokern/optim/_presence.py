"""Whether the trainables are still what the loss reads: in their module, of the dtype and on the device they
had, not frozen."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .engine import Trainables

_dtype, _device = Tensor.dtype.__get__, Tensor.device.__get__  # type: ignore[attr-defined]
_requires_grad = Tensor.requires_grad.__get__  # type: ignore[attr-defined]

Entry = tuple[weakref.ref[nn.Module], str, weakref.ref[nn.Module] | Tensor]
"""A module, and under which name it holds a module or a trainable."""


class Presence:
    """What was so when an optimizer took its trainables, for comparison at each step's start."""

    def __init__(self, trainables: Trainables, module: nn.Module | None) -> None:
        self.trainables = trainables
        self._module = None if module is None else weakref.ref(module)
        self._kinds = self._present_kinds()
        self._entries: list[Entry] = [] if module is None else _entries(module, trainables.params)
        for p, name in zip(trainables.params, trainables.names):
            if p.device.type == "meta":
                raise ValueError(
                    f"{name} is on the meta device: it has no values to perturb. Load or materialise the "
                    f"weights first; offloaded ones (accelerate) are not trained here"
                )

    def check(self) -> None:
        """Refuses to go on with trainables that are no longer in the module.

        Raises:
            RuntimeError: one was replaced.
        """
        if all(map(_holds, self._entries)):
            return
        module = None if self._module is None else self._module()
        if module is None:
            return
        present = {id(p) for p in module.parameters()}
        for p, name in zip(self.trainables.params, self.trainables.names):
            if id(p) not in present:
                raise RuntimeError(
                    f"{name} is no longer a parameter of the module: it was replaced after this optimizer "
                    f"was built (load_state_dict(assign=True), another layer or head, a conversion that "
                    f"makes new parameters), so that steps would train a tensor that no forward reads. "
                    f"Build the optimizer after that"
                )
        self._entries = _entries(module, self.trainables.params)  # wrapped, or moved to another place

    @property
    def changed(self) -> bool:
        """Whether a trainable was cast or moved since."""
        return self._kinds != self._present_kinds()

    def frozen(self) -> frozenset[int]:
        """The trainables that do not require grad any more.

        Raises:
            RuntimeError: all of them.
        """
        params = self.trainables.params
        if all(map(_requires_grad, params)):
            return frozenset()
        found = frozenset(i for i, p in enumerate(params) if not p.requires_grad)
        if len(found) == len(params):
            raise RuntimeError(
                "no parameter of this optimizer requires grad any more: nothing is left to train"
            )
        return found

    def _present_kinds(self) -> tuple[list[torch.dtype], list[torch.device]]:
        params = self.trainables.params
        return [*map(_dtype, params)], [*map(_device, params)]


def versions(params: Sequence[Tensor]) -> list[int] | None:
    """How often each was written; None of inference tensors, which do not count that."""
    return None if any(map(Tensor.is_inference, params)) else [p._version for p in params]


def _holds(entry: Entry) -> bool:
    holder, name, held = entry
    module = holder()
    if module is None:
        return False
    if isinstance(held, Tensor):
        return module._parameters.get(name) is held
    return module._modules.get(name) is held()


def _entries(root: nn.Module, params: Sequence[Tensor]) -> list[Entry]:
    """Every place that leads from the root to a trainable."""
    wanted = {id(p) for p in params}
    found: list[Entry] = []
    leads: dict[nn.Module, bool] = {}

    def visit(module: nn.Module) -> bool:
        if module in leads:
            return leads[module]
        leads[module] = False
        here = weakref.ref(module)
        if isinstance(module, torch.jit.ScriptModule):  # its parts cannot be replaced
            leads[module] = any(id(p) in wanted for p in module.parameters())
            return leads[module]
        for name, p in module._parameters.items():
            if p is not None and id(p) in wanted:
                found.append((here, name, p))
                leads[module] = True
        for name, child in module._modules.items():
            if child is not None and visit(child):
                found.append((here, name, weakref.ref(child)))
                leads[module] = True
        return leads[module]

    visit(root)
    return found
