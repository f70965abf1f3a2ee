"""The app stands by itself: the library imports nothing of it, and outside its file no method is known."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zokern
from zokern.app.methods import METHODS

ROOT = Path(zokern.__file__).parent
APP = ROOT / "app"
LIBRARY = sorted(path for path in ROOT.rglob("*.py") if APP not in path.parents)
OUTSIDE = sorted(path for path in APP.rglob("*.py") if path.parent != APP / "methods")

DATA = {"app/options.py"}  # the default method


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, whether it is imported within a function) of every import, relative ones made absolute."""
    tree = ast.parse(path.read_text())
    within = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    package = ".".join(("zokern", *path.relative_to(ROOT).parent.parts))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in within
        elif isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                yield f"{module}.{alias.name}", id(node) in within


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_the_library_does_not_import_the_app(path):
    found = [(module, lazy) for module, lazy in imports(path) if f"{module}.".startswith("zokern.app.")]
    if name(path) == "__main__.py":  # the console script
        assert found == [("zokern.app.cli.app", True)]
    else:
        assert not found


def test_relative_imports_are_seen():
    found = {module for module, _ in imports(ROOT / "backends.py")} | {
        module for module, _ in imports(ROOT / "__init__.py")
    }
    assert {"zokern.backends", "zokern.random.derive_seed", "importlib"} <= found


@pytest.mark.parametrize("path", OUTSIDE, ids=name)
def test_nothing_outside_its_file_names_a_method(path):
    """Not as a string, nor by the beginning of several ("fo-"); texts, and lists of runs to start from, may."""
    if name(path) in DATA:
        return
    families = {method.partition("-")[0] + "-" for method in METHODS if "-" in method}
    texts = [
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert not [text for text in texts if text in METHODS or text in families]


def test_no_modules_of_the_app_import_each_other_in_a_circle():
    """Within functions neither."""
    modules = {
        ".".join(("zokern", *path.relative_to(ROOT).with_suffix("").parts)): path
        for path in APP.rglob("*.py")
    }
    modules = {module.removesuffix(".__init__"): path for module, path in modules.items()}
    left = {}
    for module, path in modules.items():
        found = set()
        for target, _ in imports(path):
            while target and target not in modules:
                target = target.rpartition(".")[0]
            found.add(target)
        left[module] = found & modules.keys() - {module}
    while free := [module for module, found in left.items() if not found & left.keys()]:
        for module in free:
            del left[module]
    assert not left


def test_importing_zokern_does_not_import_the_app():
    code = "import sys, zokern; print([name for name in sys.modules if name.startswith('zokern.app')])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
