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
    "zokern.nn.queries": "zokern.optim.parallel",
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
    package, rest = name, ""
    while package:
        if package in MOVED:
            return MOVED[package] + rest
        package, _, last = package.rpartition(".")
        rest = f".{last}{rest}"
    return None


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules by their old names, and loads them by loading the new ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if new_name(fullname) is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        now = new_name(spec.name)
        assert now is not None  # found above
        module = importlib.import_module(now)
        # level 2: the frames of the import system are not counted
        warnings.warn(f"{spec.name} is now {now}", DeprecationWarning, stacklevel=2)
        spec.loader_state = module.__spec__, module.__loader__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # the import system has put the spec of the old name there
        spec = module.__spec__
        assert spec is not None
        module.__spec__, module.__loader__ = spec.loader_state


_finder = _Finder()


def install() -> None:
    """Makes the old names importable; a second call does nothing."""
    if _finder not in sys.meta_path:
        # first: a package that moved is under its old name too, where its modules would be found as copies
        sys.meta_path.insert(0, _finder)
