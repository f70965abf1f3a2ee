"""What nvcc makes of the CUDA kernels: no spills, the instruction budget, the square root."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess

import pytest
import torch

ZK_NO_CUDA, ZK_CUDA_ERROR = 3, 4


def test_no_kernel_spills(perturb_cubin):
    _, resources = perturb_cubin
    assert len(resources) == 12  # 5 variants x 2 list sizes, strided, terms
    spilling = {k: r for k, r in resources.items() if r.stack_bytes or r.spill_bytes}
    assert not spilling


def test_occupancy(perturb_cubin):
    # 256 threads a block, 65,536 registers: 6 blocks of the single-term kernels, 5 of the others.
    _, resources = perturb_cubin
    for name, used in resources.items():
        if "perturb_dense" in name:
            assert used.registers <= (40 if re.search("ELb1ELb0ELb0E", name) else 48), name


def test_instructions_per_element(sass, perturb_cubin, nvdisasm):
    cubin, _ = perturb_cubin
    most = {}
    for name, function in sass.disassemble(nvdisasm, cubin).items():
        if found := re.search(r"perturb_dense.*ELb(\d)ELb(\d)ELb(\d)E", name):
            variant = "".join(found.groups())
            loops = sass.vector_loops(function, variant)
            assert sorted(loop.dtype for loop in loops) == ["bf16", "fp16", "fp32"], name
            for loop in loops:
                assert not any("LDL" in function.code[i] for i in loop.once)
                assert "STL" not in "\n".join(function.code)
                key = variant, loop.dtype
                most[key] = max(most.get(key, 0), len(loop.once) / 8)
                if variant[0] == "0":
                    assert 0 < len(loop.term) / 8 <= (14 if variant[1] == "1" else 30), name
    # 31.1 is what an H200 issues per bf16 element while memory moves it (benchmarks/sass.py).
    assert most["100", "bf16"] <= 30 and most["100", "fp16"] <= 30 and most["100", "fp32"] <= 29
    assert most["000", "bf16"] <= 33 and most["001", "bf16"] <= 43  # a decay; 8 more random halves
    assert most["010", "bf16"] <= 20 and most["011", "bf16"] <= 31


def data_flow(path: list[str]) -> list[tuple]:
    """The root's instructions with operands named by what wrote them; rounding to 2^-126 aside."""
    written: dict[str, str] = {}
    flow = []
    for line in path:
        found = re.match(r"(MUFU\.RSQ|FMUL|FFMA)(?:\.FTZ)? (R\d+), (.*)", line)
        if not found:
            continue
        operation, result, operands = found.groups()
        names = []
        for operand in operands.replace(".reuse", "").split(", "):
            sign, register = re.match(r"(-?)(.*)", operand).groups()
            names.append(sign + written.get(register, "x" if register[0] == "R" else register))
        factors = sorted(names[:2], key=lambda name: name.lstrip("-"))  # a product commutes
        flow.append((operation, *factors, *names[2:]))
        written[result] = f"{operation}{len(flow)}"
    return flow


def test_square_root_is_the_compilers_fast_path(sass, nvcc, nvdisasm, arch, tmp_path):
    source, cubin = sass.ROOT / "tests" / "cuda" / "square_root.cu", tmp_path / "root.cubin"
    sass.compile_cubin(nvcc, source, arch, cubin)
    functions = sass.disassemble(nvdisasm, cubin)
    flows = {}
    for name in ("root_compiler", "root_ours"):
        code = functions[name].code
        first = next(i for i, line in enumerate(code) if line.startswith("LDG"))
        last = next(i for i, line in enumerate(code) if line.startswith("STG"))
        path = functions[name].shortest(first, last, {"MUFU.RSQ": 1, "FMUL": 2, "FFMA": 2})
        flows[name] = data_flow([code[i] for i in path])
    assert flows["root_ours"] == flows["root_compiler"]
    assert [step[0] for step in flows["root_ours"]] == ["MUFU.RSQ", "FMUL", "FMUL", "FFMA", "FFMA"]
    # The compiler leaves its fast path for bits outside [0x0d000000, 0x7f7fffff]: below 2^-101,
    # infinities and NaN.
    check = "\n".join(functions["root_compiler"].code)
    assert "-0xd000000" in check and "0x727fffff" in check
    assert "CALL" not in "\n".join(functions["root_ours"].code)


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    library.zk_cuda_last_error.restype = ctypes.c_char_p
    library.zk_cuda_perturb.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p,
                                        ctypes.c_int, ctypes.c_void_p]  # fmt: skip
    return library


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")
def test_without_a_device_says_so(sass, nvcc, tmp_path):
    path = tmp_path / "zk_cuda.so"
    command = [nvcc, *sass.FLAGS, "-arch=sm_90", "-Xcompiler=-fPIC", "-shared", "-cudart", "static"]
    subprocess.run([*command, str(sass.SOURCE), "-o", str(path)], check=True)
    library = declare(ctypes.CDLL(str(path)))
    assert library.zk_cuda_device_count() == 0
    assert b"cudaGetDeviceCount" in library.zk_cuda_last_error()
    assert library.zk_cuda_perturb(None, 0, None, 0, None) == ZK_CUDA_ERROR
    assert library.zk_cuda_last_error().startswith(b"cudaSetDevice: ")


def test_build_without_nvcc_says_so(sass, tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++") or pytest.skip("no C++ compiler")
    path = tmp_path / "none.so"
    source = sass.ROOT / "csrc" / "cuda" / "none.cpp"
    subprocess.run([compiler, "-fPIC", "-shared", str(source), "-o", str(path)], check=True)
    library = declare(ctypes.CDLL(str(path)))
    assert library.zk_cuda_device_count() == 0
    assert library.zk_cuda_perturb(None, 0, None, 0, None) == ZK_NO_CUDA
    assert b"no CUDA kernels in this build" in library.zk_cuda_last_error()
