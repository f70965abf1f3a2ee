"""The seam: which backend serves which device, and the reason each other one does not.

A backend is a module with `OPS: dict[str, callable]` and `unavailable_reason(device_type)`, by which it says
itself whether it can run here: the ops and the optimizers ask this module and never for a GPU. An entry of
`OPS` is called with checked arguments; one that can keep a list or a layer from one call to the next is a
`zokern.call.prepared.ListKernel` or a `zokern.call.tt_prepared.LayersKernel`.

Preference is cuda, triton, reference on a GPU and cpu, reference elsewhere. `ZOKERN_BACKEND=name` or
`use_backend(name)` asks for one: where it is unavailable that raises with its reason, and nothing falls back.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

MODULES = {
    "cuda": "zokern.native.cuda",
    "triton": "zokern.triton_kernels",
    "cpu": "zokern.native.cpu",
    "reference": "zokern.reference",
}
ON_GPU = ("cuda", "triton")
PREFERENCE = {"cuda": (*ON_GPU, "reference"), "cpu": ("cpu", "reference")}
ISAS = ("portable", "avx2", "avx512")


class BackendUnavailable(RuntimeError):
    """A backend was asked for by name and cannot serve; the message says why."""


_Choice = tuple[str | None, str | None]  # (backend, isa), None where nothing is asked
_choice: ContextVar[_Choice] = ContextVar("zokern_backend", default=(None, None))
choice: Callable[[], object] = _choice.get
"""What `use_backend` asks for at present, to compare by identity: a prepared call looks whether it changed."""


@functools.cache
def _load(name: str) -> ModuleType | str:
    """The backend's module, or the reason it cannot be imported."""
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        return f"{MODULES[name]} cannot be imported: {error}"


def unavailable_reason(name: str, device_type: str, op: str | None = None) -> str | None:
    """Why backend `name` does not serve `device_type` (and `op`); None when it does."""
    _check_text("name", name)
    _check_known("name", "backend", name, MODULES)
    _check_text("device_type", device_type)
    if op is not None:
        _check_text("op", op)
    module = _load(name)
    if isinstance(module, str):
        return module
    reason: str | None = module.unavailable_reason(device_type)
    if reason is None and op is not None and op not in module.OPS:
        reason = f"backend {name} does not have the op {op}"
    return reason


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, got {value!r}")


def _check_known(source: str, what: str, name: str | None, known: Iterable[str]) -> None:
    if name is not None and (not isinstance(name, str) or name not in known):
        raise ValueError(f"{source}: unknown {what} {name!r}; known: {', '.join(known)}")


@contextlib.contextmanager
def use_backend(backend: str, isa: str | None = None) -> Iterator[None]:
    """Asks for one backend within a `with` block, in this thread or task.

    Args:
        backend: "cuda", "triton", "cpu" or "reference".
        isa: for "cpu": "portable", "avx2" or "avx512"; None leaves the best this machine runs
            (or what `ZOKERN_ISA` says).

    Raises:
        ValueError: unknown name.
        BackendUnavailable: the backend cannot run in this process on any device, with its reason.

    Example:
        >>> with zokern.use_backend("reference"):
        ...     z = zokern.normal(8, seed=0)
    """
    if backend is None:
        raise ValueError(f"use_backend: backend must be one of {', '.join(MODULES)}, got None")
    _check_known("use_backend", "backend", backend, MODULES)
    _check_known("use_backend: isa", "instruction set", isa, ISAS)
    if isa is not None and backend != "cpu":
        raise ValueError(f"use_backend: isa={isa!r} goes with backend 'cpu', got {backend!r}")
    reasons = {d: unavailable_reason(backend, d) for d in PREFERENCE}
    if all(reasons.values()):
        own = reasons["cuda" if backend in ON_GPU else "cpu"]
        raise BackendUnavailable(f"backend {backend!r} was asked for but is unavailable: {own}")
    if isa is not None:
        importlib.import_module(MODULES["cpu"]).check_isa(isa)
    token = _choice.set((backend, isa))
    try:
        yield
    finally:
        _choice.reset(token)


def requested() -> tuple[str | None, str | None]:
    """(backend, isa) asked for by `use_backend` or the environment; None where nothing was asked."""
    (backend, isa), (usual_backend, usual_isa) = _choice.get(), _from_environment()
    return backend or usual_backend, isa or usual_isa


@functools.cache
def _from_environment() -> _Choice:
    """What the environment asks for, read once: a call of an op is to cost microseconds."""
    backend, isa = os.environ.get("ZOKERN_BACKEND") or None, os.environ.get("ZOKERN_ISA") or None
    _check_known("ZOKERN_BACKEND", "backend", backend, MODULES)
    _check_known("ZOKERN_ISA", "instruction set", isa, ISAS)
    return backend, isa


def select(op: str, device_type: str, backend: str | None = None) -> tuple[str, Callable[..., Any]]:
    """The backend that serves `op` on `device_type`, and its function.

    Args:
        op: its name in the backends' tables `OPS`.
        device_type: "cpu", "cuda", ...
        backend: this one, whatever `use_backend` and the environment ask for.

    Raises:
        BackendUnavailable: the backend asked for does not serve the op there, with its reason.
    """
    if backend is not None:
        _check_known("select", "backend", backend, MODULES)
    try:
        name = _select(op, device_type, backend or requested()[0])
    except TypeError:  # what is no text may not be hashable
        name = ""
    if not name or type(op) is not str or type(device_type) is not str:
        _check_text("op", op)
        _check_text("device_type", device_type)
    return name, _load(name).OPS[op]  # type: ignore[union-attr]


@functools.cache
def _select(op: str, device_type: str, asked: str | None) -> str:
    for name in (asked,) if asked else PREFERENCE.get(device_type, ("reference",)):
        reason = unavailable_reason(name, device_type, op)
        if reason is None:
            return name
        if asked:
            raise BackendUnavailable(f"backend {name!r} was asked for but is unavailable: {reason}")
    raise BackendUnavailable(f"no backend serves {op} on device type {device_type!r}")


def available_isas() -> list[str]:
    """The instruction sets for which the cpu backend has kernels that this machine runs, slowest first."""
    module = _load("cpu")
    return [] if isinstance(module, str) else module.available_isas()


def describe(device: str) -> str:
    """A device and the kernels that serve it, for people: "cpu (avx2)", "cuda:1 (triton)".

    Args:
        device: as PyTorch writes it, with or without a number.

    Raises:
        BackendUnavailable: the backend that was asked for does not serve it.
    """
    _check_text("device", device)
    name, _ = select("perturb_", device.partition(":")[0])
    if name == "reference":
        return f"{device} (plain PyTorch, many times slower than compiled kernels)"
    current_isa = getattr(_load(name), "current_isa", None)
    return f"{device} ({name if current_isa is None else current_isa()})"


def status() -> list[dict[str, str]]:
    """One row per backend: name, device, ops it has, and the reason it is unavailable or ""."""
    rows = []
    for name in MODULES:
        device = "cuda" if name in ON_GPU else "cpu"
        module = _load(name)  # where it cannot be imported: a reason, which has no ops and no detail
        detail = getattr(module, "detail", None)
        row = {"backend": name, "device": "any" if name == "reference" else device}
        row["ops"] = ", ".join(sorted(getattr(module, "OPS", ())))
        row["detail"] = detail() if detail else ""
        row["unavailable"] = unavailable_reason(name, device) or ""
        rows.append(row)
    return rows
