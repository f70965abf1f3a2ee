"""What setup.py asks of a CUDA toolkit: which nvcc, what it can compile for, where its runtime lies."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ARCHS = (80, 90, 100)  # those of them that the nvcc at hand knows are compiled
FLAGS = "-std=c++17 -O3 --fmad=false -Xcompiler=-fPIC -Xcompiler=-fvisibility=hidden --threads=2".split()
# A list of tensors travels in up to 32,764 bytes of kernel parameters; before 12.1 they end at 4 KB.
MIN_VERSION = (12, 1)
# lib64: NVIDIA's installer; lib and targets: conda; the last: Debian
LIBRARY_FOLDERS = ("lib64", "lib", "targets/*/lib", "lib/*-linux-gnu")
LIBRARY = "libcudart_static.a"


class Unusable(Exception):
    """Why there are no CUDA kernels in this build."""


@dataclass(frozen=True)
class Toolkit:
    nvcc: Path
    version: tuple[int, int]
    archs: tuple[int, ...]
    libraries: Path

    def flags(self) -> list[str]:
        """Machine code for each architecture, and PTX of the newest for those after it."""
        codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in self.archs]
        newest = self.archs[-1]
        return [*FLAGS, *codes, f"-gencode=arch=compute_{newest},code=compute_{newest}"]


def output_of(nvcc: Path, option: str) -> str:
    try:
        run = subprocess.run([nvcc, option], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unusable(f"{nvcc} does not run: {error}") from None
    if run.returncode:
        raise Unusable(f"{nvcc} {option} fails: {first_error(run.stdout + run.stderr)}")
    return run.stdout


def first_error(output: str) -> str:
    """The line of a compiler's output that says what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = [line for line in lines if re.search(r"(^|[\s#:])(fatal|[Ee]rror)\b", line) and " -c " not in line]
    return (said or lines or ["it says nothing"])[0][:300]


def examine(nvcc: Path) -> Toolkit:
    """What this nvcc can build.

    Raises:
        Unusable: it does not run, is too old, knows no architecture of `ARCHS`, or has no static runtime.
    """
    found = re.search(r"release (\d+)\.(\d+)", output_of(nvcc, "--version"))
    if not found:
        raise Unusable(f"{nvcc} --version names no release")
    version = int(found[1]), int(found[2])
    if version < MIN_VERSION:
        have, need = (".".join(map(str, v)) for v in (version, MIN_VERSION))
        raise Unusable(f"{nvcc} is of CUDA {have}: kernel parameters of more than 4 KB need {need} or newer")
    known = set(re.findall(r"\bsm_(\d+)\b", output_of(nvcc, "--list-gpu-code")))
    archs = tuple(arch for arch in ARCHS if str(arch) in known)
    if not archs:
        wanted = ", ".join(f"sm_{arch}" for arch in ARCHS)
        raise Unusable(f"{nvcc} (CUDA {found[1]}.{found[2]}) compiles for none of {wanted}")
    home = nvcc.parent.parent
    folders = [folder for pattern in LIBRARY_FOLDERS for folder in sorted(home.glob(pattern))]
    libraries = next((folder for folder in folders if (folder / LIBRARY).is_file()), None)
    if libraries is None:
        raise Unusable(f"{LIBRARY} is in none of {', '.join(LIBRARY_FOLDERS)} under {home}")
    return Toolkit(nvcc, version, archs, libraries)


def candidates() -> list[Path]:
    """Where nvcc may be: under $CUDA_HOME or $CUDA_PATH and nowhere else, or where it is usually."""
    asked = [
        Path(home, "bin", "nvcc") for name in ("CUDA_HOME", "CUDA_PATH") if (home := os.environ.get(name))
    ]
    asked = [nvcc for nvcc in asked if nvcc.is_file()][:1]
    usual = [Path("/usr/local/cuda/bin/nvcc"), Path(shutil.which("nvcc") or "")]
    return asked or [nvcc for nvcc in usual if nvcc.is_file()]


def find_toolkit() -> Toolkit:
    """The first of the candidates that can build the kernels.

    Raises:
        Unusable: none can; the reason is that of the first.
    """
    reasons = []
    for nvcc in candidates():
        # what a link such as /usr/bin/nvcc leads to lies beside the libraries; or the link itself does
        for place in dict.fromkeys((nvcc.resolve(), nvcc)):
            try:
                return examine(place)
            except Unusable as reason:
                reasons.append(reason)
    raise reasons[0] if reasons else Unusable("nvcc is neither under $CUDA_HOME nor on PATH")
