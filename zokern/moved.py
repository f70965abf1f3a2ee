"""Modules that have moved: their old names are imported with a warning for one release.

An old name gives the module at its new place itself, not a copy: classes stay the same under either name.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

__all__ = ["MOVED", "install", "new_name"]

MOVED = {
    "zokern.cli": "zokern.app.cli",
    "zokern.commands": "zokern.app.commands",
    "zokern.compare": "zokern.app.compare",
    "zokern.models": "zokern.app.models",
    "zokern.native.tt": "zokern.native.tt_cpu",
    "zokern.nn.queries": "zokern.optim.parallel",
    "zokern.ops.tt_plan": "zokern.call.tt_plan",
    "zokern.nn.report": "zokern.app.parameters",
    "zokern.plots": "zokern.app.plots",
    "zokern.tasks": "zokern.app.tasks",
    "zokern.training": "zokern.app.training",
    "zokern.training.data": "zokern.app.data",
    "zokern.training.first_order": "zokern.app.methods.first_order",
    "zokern.training.methods": "zokern.app.methods",
    "zokern.training.options": "zokern.app.options",
    "zokern.training.rates": "zokern.app.defaults",
    "zokern.tuning": "zokern.app.tuning",
}
"""Old name -> new name. A package stands for its modules, but for those that have a row of their own."""


def new_name(name: str) -> str | None:
    """What a module is called now; None where it has not moved."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        now = MOVED.get(".".join(parts[:end]))
        if now is not None:
            return ".".join([now, *parts[end:]])
    return None


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules by their old names, and loads them by loading the new ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        now = new_name(fullname)
        return None if now is None else importlib.machinery.ModuleSpec(fullname, self, loader_state=now)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(spec.loader_state)
        # level 2: the frames of the import system are not counted
        warnings.warn(f"{spec.name} is now {module.__name__}", DeprecationWarning, stacklevel=2)
        spec.loader_state = module.__spec__, module.__loader__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # the import system has put the spec of the old name there
        spec = module.__spec__
        assert spec is not None
        module.__spec__, module.__loader__ = spec.loader_state


def install() -> None:
    """Makes the old names importable; a second call does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        # first: a package that moved is under its old name too, where its modules would be found as copies
        sys.meta_path.insert(0, _Finder())
