"""Perturbing allocates nothing: no tensor, and no resident memory that grows with the elements."""

import subprocess
import sys
import textwrap

import pytest
import torch

import zokern
from tests.conftest import Backend


def test_no_tensor_is_allocated(kernel: Backend) -> None:
    if kernel.interpreted:
        pytest.skip("triton on the CPU is an interpreter; memory is what the device kernels promise")
    with kernel.use():
        params = [
            torch.zeros(100_000, device=kernel.device),
            torch.zeros(513, 7, device=kernel.device).t(),
        ]
        out = [torch.empty_like(p) for p in params]
        zokern.perturb_(params, [1, 2], [0.1, 0.2])  # caches of a first call
        with torch.profiler.profile(profile_memory=True) as profile:
            zokern.perturb_(params, [1, 2], [0.1, 0.2])
            zokern.perturb_(params, [1, 2], [0.1, 0.2], out=out, decay=0.5)
    grown = [e for e in profile.events() if e.cpu_memory_usage > 0 or e.device_memory_usage > 0]
    assert not grown, [(e.name, e.cpu_memory_usage, e.device_memory_usage) for e in grown]


def test_the_check_above_sees_an_allocation() -> None:
    with torch.profiler.profile(profile_memory=True) as profile:
        torch.zeros(1000).add(1.0)
    assert any(e.cpu_memory_usage > 0 for e in profile.events())


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_peak_resident_memory_does_not_grow(isa: str) -> None:
    from zokern.native.cpu import available_isas

    if isa not in available_isas():
        pytest.skip(f"this CPU does not run {isa}")
    script = f"""
        import torch, zokern

        def peak():  # KiB
            return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])

        params = [torch.zeros(1 << 22) for _ in range(8)] + [torch.zeros(1 << 20, dtype=torch.bfloat16)]
        with zokern.use_backend("cpu", isa="{isa}"):
            zokern.perturb_([params[0][:100_000]], [1, 2, 3], [1.0, 2.0, 3.0])
            before = peak()
            zokern.perturb_(params, [1, 2, 3], [1.0, 2.0, 3.0], rounding="stochastic")
        print(peak() - before)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    # 136 MB were perturbed; thread stacks are all that may appear
    assert int(result.stdout) < 1024
