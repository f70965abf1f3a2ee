"""The CUDA kernels without a device: their body compiled for the host; cubins and their reader."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}
DISTRIBUTIONS = {"gaussian": 0, "rademacher": 1}
ROUNDINGS = {"nearest": 0, "stochastic": 1}
MAX_DIMS = 8
OUT_SHIFT = 8


class CTensor(ctypes.Structure):
    """zk_tensor of csrc/zokern.h."""

    _fields_ = [
        ("src", ctypes.c_void_p),
        ("dst", ctypes.c_void_p),
        ("numel", ctypes.c_int64),
        ("offset", ctypes.c_uint64),
        ("stream", ctypes.c_uint32),
        ("dtype", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("sizes", ctypes.c_int64 * MAX_DIMS),
        ("src_strides", ctypes.c_int64 * MAX_DIMS),
        ("dst_strides", ctypes.c_int64 * MAX_DIMS),
    ]


class CMove(ctypes.Structure):
    """zk_move of csrc/zokern.h."""

    _fields_ = [
        ("seeds", ctypes.POINTER(ctypes.c_uint64)),
        ("scales", ctypes.POINTER(ctypes.c_float)),
        ("count", ctypes.c_int64),
        ("decay", ctypes.c_float),
        ("lane", ctypes.c_uint32),
        ("distribution", ctypes.c_int32),
        ("rounding", ctypes.c_int32),
    ]


def describe(source: Tensor | None, target: Tensor, stream: int, offset: int) -> CTensor:
    c = CTensor(
        src=None if source is None else source.data_ptr(),
        dst=target.data_ptr(),
        numel=target.numel(),
        offset=offset,
        stream=stream,
        dtype=DTYPES[target.dtype],
    )
    if source is not None and source.dtype != target.dtype:
        c.dtype = DTYPES[source.dtype] + ((1 + DTYPES[target.dtype]) << OUT_SHIFT)
    like = target if source is None else source
    if not (target.is_contiguous() and like.is_contiguous()):
        c.ndim = target.dim()
        for d in range(target.dim()):
            c.sizes[d] = target.shape[d]
            c.src_strides[d] = like.stride(d)
            c.dst_strides[d] = target.stride(d)
    return c


class Emulator:
    """perturb_ by the CUDA kernels' thread body, run over the whole grid on the host."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.launches = self.single_launches = 0

    def perturb_(self, params, seeds, scales, *, decay=1.0, streams=None, offsets=None, lane=0,
                 distribution="gaussian", rounding="nearest", out=None, resident=5):  # fmt: skip
        """`params[i]` may be None (zeros). `resident`: the blocks that the device holds at once."""
        out = params if out is None else out
        streams = range(len(out)) if streams is None else streams
        offsets = [0] * len(out) if offsets is None else offsets
        tensors = (CTensor * len(out))(*map(describe, params, out, streams, offsets))
        move = CMove(
            (ctypes.c_uint64 * len(seeds))(*seeds),
            (ctypes.c_float * len(seeds))(*scales),
            len(seeds),
            decay,
            lane,
            DISTRIBUTIONS[distribution],
            ROUNDINGS[rounding],
        )
        launches, single = ctypes.c_int(), ctypes.c_int()
        status = self.library.emulated_perturb(
            tensors, ctypes.c_int64(len(out)), ctypes.byref(move), resident,
            ctypes.byref(launches), ctypes.byref(single),
        )  # fmt: skip
        self.launches, self.single_launches = launches.value, single.value
        return status

    def block(self, counter: list[int], seed: int) -> tuple[list[int], list[int]]:
        """Words and fp32 bit patterns of the eight normals of one counter."""
        words, z = (ctypes.c_uint32 * 4)(), (ctypes.c_float * 8)()
        c = (ctypes.c_uint32 * 4)(*counter)
        self.library.emulated_block(c, ctypes.c_uint64(seed), words, z)
        return list(words), list((ctypes.c_uint32 * 8).from_buffer(z))

    def radii(self) -> Tensor:
        """The 2**23 radii of the stream."""
        radii = torch.empty(2**23)
        self.library.all_radii(ctypes.c_void_p(radii.data_ptr()))
        return radii


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++ or clang++) to compile the emulation with")
    library = tmp_path_factory.mktemp("emulation") / "emulate.so"
    subprocess.run(
        [compiler, "-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-fPIC",
         "-shared", str(ROOT / "tests/cuda/emulate.cpp"), "-o", str(library)],
        check=True,
    )  # fmt: skip
    return Emulator(library)


def load_sass():
    """benchmarks/sass.py as a module."""
    spec = importlib.util.spec_from_file_location("zokern_sass", ROOT / "benchmarks" / "sass.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def sass():
    return load_sass()


@pytest.fixture(scope="session")
def nvcc(sass) -> str:
    return sass.find_nvcc() or pytest.skip("nvcc is not installed: no CUDA code to look at")


@pytest.fixture(scope="session")
def nvdisasm(sass) -> str:
    return sass.find_nvdisasm() or pytest.skip("no nvdisasm, neither CUDA's nor Triton's")


@pytest.fixture(scope="session", params=[80, 90, 100], ids="sm_{}".format)
def arch(request) -> int:
    return request.param


@pytest.fixture(scope="session")
def perturb_cubin(sass, nvcc, arch, tmp_path_factory):
    """(cubin, resources of each kernel) of csrc/cuda/perturb.cu."""
    cubin = tmp_path_factory.mktemp("cubin") / f"perturb_{arch}.cubin"
    return cubin, sass.compile_cubin(nvcc, sass.SOURCE, arch, cubin)
