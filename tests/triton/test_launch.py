"""Every kernel passes through the code that Triton generates for a launch; no device is needed."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("launch_kernels.py")
# Of the generated binder and of the function that calls it, in Triton 3.3 to 3.9. An argument of such a
# name is overwritten, read in place of Triton's own, or refused as a keyword.
NAMES = {"params", "specialization", "options", "backend", "specialize_impl", "JITCallable", "dynamic_func"}
NAMES |= {"self", "args", "kwargs", "grid", "warmup", "debug", "device", "device_type"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    run = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def names_in(source: str) -> set[str]:
    """What a generated binder binds or reads, its own arguments `one` to `FOUR` aside."""
    tree = ast.parse(source)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names |= {node.name} | {a.arg for a in (node.args.vararg, node.args.kwarg) if a}
    return names - {"one", "two", "three", "FOUR"}


def test_no_argument_has_a_name_of_the_generated_code(report: dict[str, Any]) -> None:
    generated = names_in(report["generated"])
    assert {"options", "specialize_impl"} <= generated, report["generated"]
    for kernel, arguments in report["arguments"].items():
        assert not set(arguments) & (NAMES | generated), kernel


def test_binders_hand_on_what_they_were_given(report: dict[str, Any]) -> None:
    assert report["altered"] == {}


def test_every_kernel_is_launched(report: dict[str, Any]) -> None:
    """By the public operations: bound, compiled, cached, loaded and handed to the driver."""
    assert "error" not in report, report["error"]
    kernels = {name.rpartition(".")[2] for name in report["arguments"] if name.endswith("_kernel")}
    assert len(kernels) >= 7 and set(report["launched"]) == kernels
