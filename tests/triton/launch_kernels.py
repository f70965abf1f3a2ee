"""Launches every kernel through Triton's own binder, compiler and cache; prints a JSON line.

Run by test_launch.py in a process of its own, as TRITON_INTERPRET turns all of these off. The driver
is a stand-in: it says that there is one sm_90 device and writes down what it is asked to launch, so the
tensors are on the CPU and nothing is computed.
"""

from __future__ import annotations

import builtins
import importlib
import json
import pkgutil
from types import SimpleNamespace
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime import jit
from triton.runtime.driver import driver

import zokern
from zokern import triton_kernels

VERSION = tuple(map(int, triton.__version__.split(".")[:2]))
TARGET = GPUTarget("cuda", 90, 32)
launched: dict[str, int] = {}


class Launcher:
    """What the driver makes of a compiled kernel: called with the grid, the stream and the arguments."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self.arguments = [p.name for p in source.fn.params]
        self.name = source.fn.__name__

    def __call__(self, x: int, y: int, z: int, stream: int, function: int, *rest: Any) -> None:
        assert (x > 0, y > 0, z, stream, function) == (True, True, 1, 7, 3)
        given = rest[-len(self.arguments) :]
        assert not any(isinstance(argument, dict) for argument in given), self.name
        launched[self.name] = launched.get(self.name, 0) + 1


class Driver:
    """One sm_90 device with 227 KB of shared memory a block."""

    launcher_cls = Launcher
    utils = SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": 232448},
        # module, function, registers, spills and, from Triton 3.4 on, the most threads
        load_binary=lambda name, kernel, shared, device: (2, 3, 32, 0, 1024)[: 5 if VERSION >= (3, 4) else 4],
        unload_module=lambda module: None,
    )

    def get_current_target(self) -> GPUTarget:
        return TARGET

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 7


def jit_functions() -> dict[str, Any]:
    """Every @triton.jit function of the package's modules, by where it is defined."""
    found = {}
    for info in pkgutil.walk_packages(triton_kernels.__path__, triton_kernels.__name__ + "."):
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, triton.JITFunction):
                found[f"{value.fn.__module__}.{value.fn.__name__}"] = value
    return found


def binder_of(function: Any) -> tuple[Any, str]:
    """The binder that Triton generates for the function, and its source text."""
    sources: list[str] = []

    def record(source: str, *namespaces: Any) -> None:
        sources.append(source)
        builtins.exec(source, *namespaces)

    jit.exec = record  # type: ignore[attr-defined]
    try:
        binder = jit.create_function_from_signature(function.signature, function.params, make_backend(TARGET))
    finally:
        del jit.exec  # type: ignore[attr-defined]
    (source,) = sources
    return binder, source


def sample(parameter: Any) -> Any:
    kind = parameter.annotation_type
    if parameter.is_constexpr:
        return 1
    if kind:
        return 1.0 if kind.startswith("fp") else 1
    return () if parameter.name.startswith(("sizes", "strides")) else torch.empty(16)


def altered(function: Any) -> list[str]:
    """The arguments that the function's binder does not hand on as they were given."""
    binder, _ = binder_of(function)
    given = [sample(p) for p in function.params]
    try:
        bound, specialization, options = binder(*given, num_warps=4)
    except TypeError as error:
        return [str(error)]
    assert options == {"num_warps": 4} and len(specialization) == len(given)
    return [p.name for p, value in zip(function.params, given) if bound[p.name] is not value]


@triton.jit
def probe(one, two: tl.int64, three: tl.float32, FOUR: tl.constexpr):
    pass


def launch_everything() -> None:
    """The public operations, each in the ways that reach another kernel or table."""

    def numbers(*shape: int) -> torch.Tensor:
        return torch.rand(shape)

    triton_kernels.availability.INTERPRETED = True  # lets the backend take tensors on the CPU
    cores = [numbers(1, 4, 2), numbers(2, 4, 2), numbers(2, 2, 2), numbers(2, 2, 1)]
    with zokern.use_backend("triton"):
        zokern.perturb_([numbers(300), numbers(5, 7).t()], [2**64 - 1], [0.1])
        zokern.perturb_([numbers(300).bfloat16()], list(range(6)), [0.1] * 6, rounding="stochastic")
        zokern.normal((40,), 3)
        zokern.perturb_masked_([numbers(300)], [1], [0.1], thresholds=1.0)
        zokern.perturb_masked_([numbers(300)], [1], [0.1], masks=[torch.ones(300, dtype=torch.bool)])
        p, m, v = numbers(300), numbers(300), numbers(300)
        zokern.adam_(p, m, v, [1], [0.5], lr=0.1, step=2)
        zokern.adam_(p, m, v, [1, 2], [0.5, 0.5], lr=0.1, step=2, displacements=[0.1, 0.1])
        zokern.adamu_probe_(p, m, 1, 0.1, alpha=0.5, beta1=0.9)
        zokern.adamu_update_(p, m, 1, 0.1, lr=0.1, alpha=0.5, beta1=0.9, beta2=0.9)
        x = numbers(3, 16)
        zokern.tt_linear(x, cores, 2)
        zokern.tt_halves(cores, 2)
        back = [core.transpose(0, 2).contiguous() for core in reversed(cores)]
        zokern.tt_adapter(x, cores, back, down_split=2, up_split=2)


if __name__ == "__main__":
    driver.set_active(Driver())
    functions = jit_functions()
    _, source = binder_of(probe)
    report: dict[str, Any] = {
        "generated": source,
        "arguments": {name: [p.name for p in f.params] for name, f in functions.items()},
        "altered": {name: wrong for name, f in functions.items() if (wrong := altered(f))},
    }
    try:
        launch_everything()
    except Exception as error:
        report["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps({**report, "launched": launched}))
