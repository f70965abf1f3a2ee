"""The app stands by itself: the library imports nothing of it, and outside its file no method is known."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

import zokern
from zokern.app.methods import METHODS

ROOT = Path(zokern.__file__).parent
APP = ROOT / "app"
LIBRARY = sorted(path for path in ROOT.rglob("*.py") if APP not in path.parents)
OUTSIDE = sorted(path for path in APP.rglob("*.py") if path.parent != APP / "methods")

# a default, and lists of runs to start from
DATA = {"app/options.py", "app/compare/options.py", "app/commands/compare.py", "app/commands/train.py"}


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
    assert {"zokern.backends", "zokern.ops.perturb_", "importlib"} <= found


@pytest.mark.parametrize("path", OUTSIDE, ids=name)
def test_nothing_outside_its_file_names_a_method(path):
    """Not as a string, in whole or as the beginning of one ("fo-"); docstrings and lists of runs may."""
    if name(path) in DATA:
        return
    families = {method.partition("-")[0] + "-" for method in METHODS if "-" in method}
    texts = [
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert not [text for text in texts if text in METHODS or text in families]


def test_importing_zokern_does_not_import_the_app():
    import subprocess
    import sys

    code = "import sys, zokern; print([name for name in sys.modules if name.startswith('zokern.app')])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
