"""The portable vectors compute fused multiply-adds without an instruction for them: every bit is checked here."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "portable.cpp"


@pytest.mark.parametrize("flags", ["", "-mfma"], ids=["baseline", "with an instruction"])
def test_all_radii_all_angles_and_hard_sums(tmp_path: Path, flags: str) -> None:
    """2**23 radii and angles: rounding a step of their polynomials otherwise than core/normal.h does would show.
    All of float16. The sums are such that rounding them to double first changes the result."""
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    assert compiler, "a C++ compiler is needed"
    if flags and "avx2" not in __import__("zokern").backends.available_isas():
        pytest.skip("this CPU has no fused multiply-add")
    program = tmp_path / "portable"
    command = [
        compiler,
        "-std=c++17",
        "-O2",
        "-ffp-contract=off",
        *flags.split(),
        str(SOURCE),
        "-o",
        str(program),
    ]
    subprocess.run(command, check=True)
    result = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    assert result == "0 0 0\n"
