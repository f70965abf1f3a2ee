"""What nvcc makes of the CUDA kernels with state: no spills, and registers for two blocks a processor."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("op", ["adam", "adamu", "masked"])
def test_no_kernel_spills(sass, nvcc, arch, op, tmp_path):
    source = sass.ROOT / "csrc" / "cuda" / f"{op}.cu"
    resources = sass.compile_cubin(nvcc, source, arch, tmp_path / "kernels.cubin")
    assert len([name for name in resources if f"{op}_dense" in name or f"{op}_general" in name]) == 2
    assert not {k: r for k, r in resources.items() if r.stack_bytes or r.spill_bytes}
    assert all(r.registers <= 128 for r in resources.values())
