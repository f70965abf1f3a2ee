"""Backends under test. One set of tests; only the set of backends differs between machines.

Without a GPU, Triton's kernels run under its interpreter, which has to be chosen before the import.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# a background shell starts us with Ctrl-C ignored; the tests of Ctrl-C need it
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # tests are many and small; those about threads set their own

import pytest

import zokern
from zokern import backends


@dataclass(frozen=True)
class Backend:
    """One way to run the ops: a backend, its instruction set, and the device its tensors live on."""

    name: str
    isa: str | None
    device: str

    def __str__(self) -> str:
        return f"{self.name}-{self.isa}" if self.isa else self.name

    def use(self) -> contextlib.AbstractContextManager[None]:
        return zokern.use_backend(self.name, isa=self.isa)

    @property
    def interpreted(self) -> bool:
        return self.name == "triton" and self.device == "cpu"

    def unavailable(self) -> str | None:
        """Why this machine cannot run it: for want of hardware, never for want of a build."""
        if self.device == "cuda" and not torch.cuda.is_available():
            return "no GPU"
        if self.isa is not None and self.isa not in backends.available_isas():
            return f"this CPU does not run {self.isa}"
        return None


def all_backends() -> list[Backend]:
    gpu = torch.cuda.is_available()
    return [
        Backend("reference", None, "cpu"),
        *(Backend("cpu", isa, "cpu") for isa in backends.ISAS),
        Backend("triton", None, "cuda" if gpu else "cpu"),
        Backend("cuda", None, "cuda"),
    ]


def as_params(chosen: list[Backend]) -> list:
    return [
        pytest.param(
            b,
            id=str(b),
            marks=pytest.mark.skipif(bool(b.unavailable()), reason=f"{b}: {b.unavailable()}"),
        )
        for b in chosen
    ]


@pytest.fixture(params=as_params(all_backends()))
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Every backend in turn, selected for the test's duration."""
    with request.param.use():
        yield request.param


@pytest.fixture(params=as_params([b for b in all_backends() if b.name != "reference"]))
def kernel(request: pytest.FixtureRequest) -> Backend:
    """Every backend but the reference; the test selects it."""
    return request.param


@pytest.fixture(autouse=True)
def _no_grad_mode_leaks() -> Iterator[None]:
    enabled = torch.is_grad_enabled()
    yield
    torch.set_grad_enabled(enabled)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bit patterns, as integers on the CPU."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.detach().contiguous().cpu().view(integer)


def assert_same_bits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    wrong = (bits(actual) != bits(expected)).flatten().nonzero().flatten()
    if len(wrong):
        i = int(wrong[0])
        raise AssertionError(
            f"{len(wrong)} of {actual.numel()} elements differ, first at {i}: "
            f"{actual.flatten()[i].item()!r} is not {expected.flatten()[i].item()!r}"
        )
