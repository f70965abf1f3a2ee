"""What nvcc makes of the CUDA tensor-train kernels: no spills, registers for two blocks a processor, and
the vector accesses and fused multiply-adds that the kernels are built around."""

from __future__ import annotations

import re

import pytest

SOURCE = "csrc/cuda/tt.cu"


@pytest.fixture(scope="module")
def kernels(sass, nvcc, arch, tmp_path_factory):
    """(cubin, resources of each kernel) of csrc/cuda/tt.cu."""
    cubin = tmp_path_factory.mktemp("cubin") / f"tt_{arch}.cubin"
    return cubin, sass.compile_cubin(nvcc, sass.ROOT / SOURCE, arch, cubin)


def test_no_kernel_spills(kernels):
    _, resources = kernels
    assert len([name for name in resources if "tt_rows" in name]) == 6  # three dtypes, shared and not
    assert len([name for name in resources if "tt_groups" in name]) == 1
    assert not {k: r for k, r in resources.items() if r.stack_bytes or r.spill_bytes}
    assert all(r.registers <= 128 for r in resources.values())


def test_rows_move_in_16_bytes_and_stay_in_shared_memory(sass, kernels, nvdisasm):
    cubin, _ = kernels
    checked = 0
    for name, function in sass.disassemble(nvdisasm, cubin).items():
        code = "\n".join(function.code)
        assert "LDL" not in code and "STL" not in code
        if "tt_rows" in name and "Lb1E" in name:
            for access in (r"LDG\.E\.128", r"STG\.E\.128", r"LDS\.128", r"STS\.128"):
                assert re.search(access, code), (name, access)
            assert "HMMA" not in code and "TF32" not in code  # fp32 throughout
            checked += 1
    assert checked == 3
