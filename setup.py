"""Builds zokern/_C, the native kernels: C++ always, CUDA when nvcc is found.

ZOKERN_BUILD=auto  both if there is nvcc, C++ if not, pure Python if there is no compiler either (default)
             cpu   C++ only; no compiler is an error
             cuda  C++ and CUDA; no nvcc is an error
             none  pure Python
A compile error is an error in every mode. No torch is needed, and no torch header is used.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"
CXX_FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wextra".split()
# gcc 12 warns of its own AVX-512 intrinsics
AVX512_FLAGS = (
    "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -Wno-maybe-uninitialized -Wno-uninitialized"
)
ISA_FLAGS = {"avx2": "-mavx2 -mfma -mf16c".split(), "avx512": AVX512_FLAGS.split()}
CUDA_ARCHS = (80, 90, 100)
CUDA_FLAGS = "-std=c++17 -O3 --fmad=false -Xcompiler=-fPIC -Xcompiler=-fvisibility=hidden --threads=2".split()
CUDA_FLAGS += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in CUDA_ARCHS]
CUDA_FLAGS += [f"-gencode=arch=compute_{CUDA_ARCHS[-1]},code=compute_{CUDA_ARCHS[-1]}"]


def find_compiler() -> str | None:
    asked = os.environ.get("CXX", "").split()
    return next(
        (path for name in (*asked[:1], "g++", "clang++", "c++") if (path := shutil.which(name))),
        None,
    )


def find_nvcc() -> Path | None:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates = [Path(home, "bin", "nvcc") for home in homes if home] + [Path(shutil.which("nvcc") or "")]
    return next((path.resolve() for path in candidates if path.is_file()), None)


def plan() -> tuple[str | None, Path | None]:
    """The C++ compiler and nvcc to build with, or None for what is left out."""
    mode = os.environ.get("ZOKERN_BUILD", "auto")
    if mode not in ("auto", "cpu", "cuda", "none"):
        sys.exit(f"ZOKERN_BUILD must be auto, cpu, cuda or none, got {mode!r}")
    compiler, nvcc = find_compiler(), find_nvcc()
    if mode in ("cpu", "cuda") and not compiler:
        sys.exit(f"ZOKERN_BUILD={mode} needs a C++ compiler and none of $CXX, g++, clang++, c++ was found")
    if mode == "cuda" and not nvcc:
        sys.exit("ZOKERN_BUILD=cuda needs nvcc, found neither under $CUDA_HOME nor on PATH")
    if mode == "none" or not compiler:
        print("zokern: no native kernels in this build; the reference (and Triton, on a GPU) serves")
        return None, None
    return compiler, None if mode == "cpu" else nvcc


class NinjaBuild(build_ext):
    """Writes a build.ninja, so that files compile in parallel and again only when they changed."""

    def build_extension(self, ext: Extension) -> None:
        import ninja
        import pybind11
        from ninja import ninja_syntax

        compiler, nvcc = plan()
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        folder = ROOT / "build" / f"native-{sysconfig.get_config_var('SOABI')}"  # kept between builds
        for path in (target.parent, folder):
            path.mkdir(parents=True, exist_ok=True)
        includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        link = (
            ["-bundle", "-undefined", "dynamic_lookup"]
            if sys.platform == "darwin"
            else ["-shared", "-pthread"]
        )
        sources = [*CSRC.glob("*.cpp"), *CSRC.glob("cpu/*.cpp")]
        if nvcc:
            sources += CSRC.glob("cuda/*.cu")
            link += [f"-L{nvcc.parent.parent / 'lib64'}", "-lcudart_static", "-ldl", "-lrt"]
        else:
            sources.append(CSRC / "cuda" / "none.cpp")
        with open(folder / "build.ninja", "w") as file:
            n = ninja_syntax.Writer(file)
            compile_cxx = f"{compiler} -MMD -MF $out.d {shlex.join(CXX_FLAGS)} $flags -c $in -o $out"
            n.rule("cxx", compile_cxx, depfile="$out.d", deps="gcc", description="C++ $in")
            compile_cuda = f"{nvcc} -MD -MF $out.d {shlex.join(CUDA_FLAGS)} -c $in -o $out"
            n.rule("cuda", compile_cuda, depfile="$out.d", deps="gcc", description="CUDA $in")
            n.rule("link", f"{compiler} $in {shlex.join(link)} -o $out", description="link $out")
            objects = []
            for source in sorted(sources):
                isa = source.stem
                if isa in ISA_FLAGS and not x86:
                    continue
                flags = ISA_FLAGS.get(isa, []) + (["-DZK_X86"] if x86 else [])
                flags += includes if source.name.startswith("bindings") else []
                objects.append(str(folder / f"{source.parent.name}_{source.stem}.o"))
                n.build(objects[-1], source.suffix[1:].replace("cpp", "cxx").replace("cu", "cuda"), str(source),
                        variables={"flags": shlex.join(flags)})  # fmt: skip
            n.build(str(target), "link", objects)
        subprocess.check_call([os.path.join(ninja.BIN_DIR, "ninja"), "-C", str(folder)])


setup(
    # `triton_kernels` is installed inside zokern: two other packages own the top-level name
    packages=[*find_packages(include=["zokern", "zokern.*"]), "zokern.triton_kernels"],
    package_dir={"zokern": "zokern", "zokern.triton_kernels": "triton_kernels"},
    ext_modules=[Extension("zokern._C", sources=[])] if plan()[0] else [],
    cmdclass={"build_ext": NinjaBuild},
)
