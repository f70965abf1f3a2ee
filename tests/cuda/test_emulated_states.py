"""The CUDA kernels with state against the reference, without a device.

tests/cuda/emulate_state.cpp runs the thread body that nvcc compiles over a whole grid on the host; here
it takes the place of the CPU backend's kernels, so that the public ops call it.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import zokern
from tests.conftest import assert_same_bits
from tests.cuda.conftest import MAX_DIMS, CMove, CTensor
from tests.cuda.guarded import Guarded, around_the_carry, in_a_process
from tests.ops.states import CASES, agrees
from tests.ops.test_perturb import values
from tests.ops.test_states import OPS, copies, lists
from zokern.native import cpu
from zokern.native.states import state_ops

ROOT = Path(__file__).resolve().parents[2]
TILE = 2048


class CState(ctypes.Structure):
    """zk_state of csrc/zokern.h."""

    _fields_ = [("data", ctypes.c_void_p), ("strides", ctypes.c_int64 * MAX_DIMS)]


class CAdam(ctypes.Structure):
    """zk_adam of csrc/zokern.h."""

    _fields_ = [
        ("seeds", ctypes.POINTER(ctypes.c_uint64)),
        ("grads", ctypes.POINTER(ctypes.c_float)),
        ("displacements", ctypes.POINTER(ctypes.c_float)),
        ("count", ctypes.c_int64),
        ("decay", ctypes.c_float),
        ("rule", ctypes.c_float * 8),
        ("variant", ctypes.c_int32),
        ("distribution", ctypes.c_int32),
        ("rounding", ctypes.c_int32),
    ]


class CAdamu(ctypes.Structure):
    """zk_adamu of csrc/zokern.h."""

    _fields_ = [
        ("seed", ctypes.c_uint64),
        ("scale", ctypes.c_float),
        ("displacement", ctypes.c_float),
        ("decay", ctypes.c_float),
        ("rule", ctypes.c_float * 8),
        ("update", ctypes.c_int32),
        ("rounding", ctypes.c_int32),
    ]


def array(kind: Any, values: list[Any]) -> Any:
    return (kind * len(values))(*values)


def floats(values: list[float]) -> Any:
    return array(ctypes.c_float, values)


def tensors_of(packed: list[Any]) -> Any:
    def one(src, dst, numel, offset, stream, dtype, *dims):  # type: ignore[no-untyped-def]
        padded = ((ctypes.c_int64 * MAX_DIMS)(*d) for d in dims)
        return CTensor(src, dst, numel, offset, stream, dtype, len(dims[0]), *padded)

    return array(CTensor, [one(*p) for p in packed])


def states_of(packed: list[Any]) -> Any:
    return array(CState, [CState(data, (ctypes.c_int64 * MAX_DIMS)(*strides)) for data, strides in packed])


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[..., None]]:
    """The ops, run by the CUDA kernels' thread body on a device that holds five blocks."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++ or clang++) to compile the emulation with")
    path = tmp_path_factory.mktemp("emulation") / "emulate_state.so"
    subprocess.run(
        [compiler, "-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-fPIC",
         "-shared", str(ROOT / "tests/cuda/emulate_state.cpp"), "-o", str(path)],
        check=True,
    )  # fmt: skip
    library = ctypes.CDLL(str(path))

    def masked(tensors, masks, thresholds, move, resident):  # type: ignore[no-untyped-def]
        seeds, scales, decay, distribution, rounding = move
        c = CMove(array(ctypes.c_uint64, seeds), floats(scales), len(seeds), decay, 0, distribution, rounding)
        chosen = states_of(masks) if masks else None
        count = ctypes.c_int64(len(tensors))
        assert not library.emulated_masked(
            tensors_of(tensors), chosen, floats(thresholds), count, ctypes.byref(c), resident
        )

    def run(name, tensors, states, move, resident):  # type: ignore[no-untyped-def]
        count = ctypes.c_int64(len(tensors))
        assert not library[name](tensors_of(tensors), states_of(states), count, ctypes.byref(move), resident)

    def adam(tensors, states, move, resident):  # type: ignore[no-untyped-def]
        seeds, grads, displacements, decay, rule, *choices = move
        c = CAdam(array(ctypes.c_uint64, seeds), floats(grads), floats(displacements), len(seeds), decay,
                  floats(rule), *choices)  # fmt: skip
        run("emulated_adam", tensors, states, c, resident)

    def adamu(tensors, states, move, resident):  # type: ignore[no-untyped-def]
        *numbers, rule, update, rounding = move
        run("emulated_adamu", tensors, states, CAdamu(*numbers, floats(rule), update, rounding), resident)

    return state_ops(masked, adam, adamu, lambda _: (5,))


@pytest.fixture
def use(emulated: dict[str, Callable[..., None]], monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    @contextlib.contextmanager
    def on() -> Iterator[None]:
        with monkeypatch.context() as patch, zokern.use_backend("cpu"):
            for name, function in emulated.items():
                patch.setitem(cpu.OPS, name, function)
            yield

    return on


@pytest.mark.parametrize("op", CASES)
def test_equals_reference(use: Callable[[], Any], op: str) -> None:
    agrees(use, "cpu", *CASES[op], examples=60)


@pytest.mark.parametrize("op", OPS)
def test_long_and_large_lists(use: Callable[[], Any], op: str) -> None:
    """More tensors than one launch takes, dense and strided; more chunks than blocks."""
    start = lists([1 + i % 9 for i in range(400)] + [7 * TILE + 3])
    for each in start:
        each += [values(12, torch.float32, i).abs().view(3, 4).t() for i in range(70)]
    expected, actual = copies(start), copies(start)
    with zokern.use_backend("reference"):
        OPS[op](*expected)
    with use():
        OPS[op](*actual)
    for a, e in zip(sum(actual, []), sum(expected, [])):
        assert_same_bits(a, e)


@pytest.mark.parametrize("shift", [0, 1, 3])
@pytest.mark.parametrize("op", OPS)
def test_any_alignment(use: Callable[[], Any], op: str, shift: int) -> None:
    """Whole units need 16-byte addresses in every memory; here one of them has another."""
    for moved in range(3):
        for dtype in (torch.float32, torch.bfloat16):
            start = lists([600], dtype)
            start[moved] = [torch.cat([t.new_zeros(shift), t])[shift:] for t in start[moved]]
            expected = copies(start)
            with zokern.use_backend("reference"):
                OPS[op](*expected, offsets=[13])
            with use():
                OPS[op](*start, offsets=[13])
            for a, e in zip(sum(start, []), sum(expected, [])):
                assert_same_bits(a, e)


@pytest.mark.parametrize(
    ("op", "distribution"),
    [(op, "gaussian") for op in (*OPS, "mask")] + [(op, "rademacher") for op in ("adam_", "perturb_masked_")],
)
def test_short_tensors_around_the_carry(use: Callable[[], Any], op: str, distribution: str) -> None:
    """Where the low word of the block counter begins again from 0."""
    keywords = {} if "adamu" in op else {"distribution": distribution}  # AdaMU's are Gaussian
    call = OPS.get(
        op, lambda p, m, v, **k: zokern.perturb_masked_(p, [3], [0.1], masks=[x > 0.5 for x in m], **k)
    )
    memory, jobs, expected = Guarded(), [], []
    for i, (offset, n) in enumerate(around_the_carry()):
        start = lists([n], (torch.float32, torch.bfloat16)[i % 2])
        jobs.append(([[memory.copy(t, offset % 8) for t in each] for each in start], [offset]))
        with zokern.use_backend("reference"):
            call(*start, offsets=[offset], streams=[4], **keywords)
        expected.append(start)

    def run(i: int) -> None:
        tensors, offsets = jobs[i]
        call(*tensors, offsets=offsets, streams=[4], **keywords)

    with use():
        in_a_process(run, len(jobs))
    memory.check()
    for (actual, _), start in zip(jobs, expected):
        for a, e in zip(sum(actual, []), sum(start, [])):
            assert_same_bits(a, e)


def test_more_seeds_than_the_parameters_hold(use: Callable[[], Any]) -> None:
    seeds, grads = list(range(70)), [0.5 - k % 3 for k in range(70)]
    results = []
    for context in (use, lambda: zokern.use_backend("reference")):
        p, m, v = (values(300, torch.float32, k).abs() for k in range(3))
        with context():
            zokern.adam_(p, m, v, seeds, grads, lr=0.1, step=2, displacements=grads)
            zokern.perturb_masked_(p, seeds, grads, thresholds=1.0)
        results.append((p, m, v))
    for a, e in zip(*results):
        assert_same_bits(a, e)
