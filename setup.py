"""Builds zokern/_C, the native kernels: C++ always, CUDA when there is an nvcc that can compile them.

ZOKERN_BUILD=auto  both, C++ alone where CUDA cannot be built, pure Python where there is no compiler (default)
             cpu   C++ only; no compiler is an error
             cuda  C++ and CUDA; no nvcc, or one that cannot compile the kernels, is an error
             none  pure Python
What `auto` leaves out is printed with its reason, which `zokern info` shows later. An error in the C++
code is an error in every mode. No torch is needed, and no torch header is used.
"""

import json
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
sys.path.insert(0, str(ROOT))  # an isolated build does not have it there

from build_cuda import Toolkit, Unusable, find_toolkit, first_error  # noqa: E402

CSRC = ROOT / "csrc"
CXX_FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wextra".split()
# gcc 12 warns of its own AVX-512 intrinsics
AVX512_FLAGS = (
    "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -Wno-maybe-uninitialized -Wno-uninitialized"
)
LONGEST = ("portable", "avx512", "avx2")  # to compile, a minute each: started first
ISA_FLAGS = {"avx2": "-mavx2 -mfma -mf16c".split(), "avx512": AVX512_FLAGS.split()}


def find_compiler() -> str | None:
    asked = os.environ.get("CXX", "").split()
    return next(
        (path for name in (*asked[:1], "g++", "clang++", "c++") if (path := shutil.which(name))),
        None,
    )


def mode() -> str:
    asked = os.environ.get("ZOKERN_BUILD", "auto")
    if asked not in ("auto", "cpu", "cuda", "none"):
        sys.exit(f"ZOKERN_BUILD must be auto, cpu, cuda or none, got {asked!r}")
    return asked


def plan_compiler() -> str | None:
    """The C++ compiler to build with; None for a pure Python package."""
    compiler = find_compiler()
    if mode() in ("cpu", "cuda") and not compiler:
        sys.exit(f"ZOKERN_BUILD={mode()} needs a C++ compiler and none of $CXX, g++, clang++, c++ was found")
    if mode() == "none" or not compiler:
        print("zokern: no native kernels in this build; the reference (and Triton, on a GPU) serves")
        return None
    return compiler


def plan_cuda() -> Toolkit | str:
    """The CUDA toolkit to build with, or why there is none."""
    if mode() == "cpu":
        return "built with ZOKERN_BUILD=cpu"
    try:
        return find_toolkit()
    except Unusable as reason:
        return without_cuda(str(reason))


def without_cuda(reason: str) -> str:
    """Says that this build has no CUDA kernels, and why; an error where they were asked for."""
    if mode() == "cuda":
        sys.exit(f"ZOKERN_BUILD=cuda cannot be built: {reason}")
    print(f"zokern: no CUDA kernels in this build: {reason}")
    return reason


class NinjaBuild(build_ext):
    """Writes a build.ninja, so that files compile in parallel and again only when they changed."""

    def build_extension(self, ext: Extension) -> None:
        import ninja

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        folder = ROOT / "build" / f"native-{sysconfig.get_config_var('SOABI')}"  # kept between builds
        for path in (target.parent, folder):
            path.mkdir(parents=True, exist_ok=True)
        run_ninja = [os.path.join(ninja.BIN_DIR, "ninja"), "-C", str(folder)]
        cuda = plan_cuda()
        self.write(folder, target, cuda)
        if isinstance(cuda, Toolkit):
            run = subprocess.run(
                [*run_ninja, "cuda"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            print(run.stdout)
            if run.returncode:
                version = ".".join(map(str, cuda.version))
                reason = f"{cuda.nvcc} (CUDA {version}) fails: {first_error(run.stdout)}"
                self.write(folder, target, without_cuda(reason))
        subprocess.check_call(run_ninja)

    def write(self, folder: Path, target: Path, cuda: Toolkit | str) -> None:
        import pybind11
        from ninja import ninja_syntax

        compiler = plan_compiler()
        includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        darwin = sys.platform == "darwin"
        link = ["-bundle", "-undefined", "dynamic_lookup"] if darwin else ["-shared", "-pthread"]
        sources = [*CSRC.glob("*.cpp"), *CSRC.glob("cpu/*.cpp")]
        if isinstance(cuda, Toolkit):
            sources += CSRC.glob("cuda/*.cu")
            link += [f"-L{cuda.libraries}", "-lcudart_static", "-ldl", "-lrt"]
        else:
            sources.append(CSRC / "cuda" / "none.cpp")
        with open(folder / "build.ninja", "w") as file:
            n = ninja_syntax.Writer(file)
            compile_cxx = f"{compiler} -MMD -MF $out.d {shlex.join(CXX_FLAGS)} $flags -c $in -o $out"
            n.rule("cxx", compile_cxx, depfile="$out.d", deps="gcc", description="C++ $in")
            if isinstance(cuda, Toolkit):
                compile_cuda = f"{cuda.nvcc} -MD -MF $out.d {shlex.join(cuda.flags())} -c $in -o $out"
                n.rule("cuda", compile_cuda, depfile="$out.d", deps="gcc", description="CUDA $in")
            n.rule("link", f"{compiler} $in {shlex.join(link)} -o $out", description="link $out")
            objects: dict[str, str] = {}  # to the rule that makes each
            for source in sorted(sources, key=lambda s: (s.stem not in LONGEST, s)):
                isa = source.stem
                if isa in ISA_FLAGS and not x86:
                    continue
                flags = ISA_FLAGS.get(isa, []) + (["-DZK_X86"] if x86 else [])
                flags += includes if source.name.startswith("bindings") else []
                if isinstance(cuda, str) and source.name == "none.cpp":
                    flags.append(
                        f"-DZK_NO_CUDA_REASON={json.dumps(cuda.encode('ascii', 'replace').decode())}"
                    )
                made = str(folder / f"{source.parent.name}_{source.stem}.o")
                objects[made] = {".cpp": "cxx", ".cu": "cuda"}[source.suffix]
                n.build(made, objects[made], str(source),
                        variables={"flags": shlex.join(flags).replace("$", "$$")})  # fmt: skip
            n.build("cuda", "phony", [made for made, rule in objects.items() if rule == "cuda"])
            n.build(str(target), "link", list(objects))
            n.default(str(target))


setup(
    # `triton_kernels` is installed inside zokern: two other packages own the top-level name
    packages=[*find_packages(include=["zokern", "zokern.*"]), "zokern.triton_kernels"],
    package_dir={"zokern": "zokern", "zokern.triton_kernels": "triton_kernels"},
    ext_modules=[Extension("zokern._C", sources=[])] if plan_compiler() else [],
    cmdclass={"build_ext": NinjaBuild},
)
