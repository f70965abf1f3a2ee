"""Which module imports which: read from the source, imports inside functions and for types alone included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"zokern": ROOT / "zokern", "zokern.triton_kernels": ROOT / "triton_kernels"}
APART = ("zokern.ops", "zokern.native", "zokern.reference")


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))
            found[name] = path
    return found


MODULES = modules()


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def imports(module: str) -> Iterator[str]:
    """The modules of zokern that this one names in an import, wherever it stands."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from package import name` names a module where there is one, else the package itself
            names = [f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names]
        else:
            continue
        yield from (name for name in names if name in MODULES and name != module)


GRAPH = {module: set(imports(module)) for module in MODULES}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that reach each other (strongly connected components of two and more)."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for after in graph[todo.pop()] - seen:
                seen.add(after)
                todo.append(after)
        return seen

    reach = {module: reached(module) for module in graph}
    found = {frozenset({m} | {n for n in reach[m] if m in reach[n]}) for m in graph if m in reach[m]}
    return sorted(sorted(circle) for circle in found)


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert GRAPH["zokern.ops.perturb"] >= {"zokern.backends", "zokern.call.lists", "zokern.ops._library"}
    assert "zokern.app.cli" in GRAPH["zokern.__main__"]  # imported within a function


def test_no_circle() -> None:
    """A module that imports another of its package names that module, so that the package's `__init__`, which
    gathers what the modules define, is in no circle."""
    assert circles(GRAPH) == []


@pytest.mark.parametrize("package", APART)
def test_ops_native_and_reference_do_not_import_each_other(package: str) -> None:
    others = [p for p in APART if p != package]
    wrong = {
        f"{module} imports {name}"
        for module, names in GRAPH.items()
        if is_within(module, package)
        for name in names
        if any(is_within(name, other) for other in others)
    }
    assert not wrong


def test_a_call_is_made_of_nothing_that_serves_it() -> None:
    """`zokern.call` imports nothing of zokern but itself: it is given the kernels it keeps."""
    names = {name for module in MODULES if is_within(module, "zokern.call") for name in GRAPH[module]}
    assert all(is_within(name, "zokern.call") for name in names)


def test_triton_kernels_import_the_vocabulary_and_themselves() -> None:
    names = {
        name for module in MODULES if is_within(module, "zokern.triton_kernels") for name in GRAPH[module]
    }
    assert all(is_within(n, "zokern.call") or is_within(n, "zokern.triton_kernels") for n in names)


def test_the_seam_imports_no_backend() -> None:
    """`zokern.backends` loads a backend by its name when it is asked for."""
    assert GRAPH["zokern.backends"] == set()


@pytest.mark.parametrize("package", [*APART, "zokern.call", "zokern.triton_kernels"])
def test_an_underscore_module_is_imported_by_its_own_folder_alone(package: str) -> None:
    wrong = {
        f"{module} imports {name}"
        for module, names in GRAPH.items()
        if not is_within(module, package)
        for name in names
        if is_within(name, package) and name.rpartition(".")[2].startswith("_")
    }
    assert not wrong
