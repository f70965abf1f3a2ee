"""Building from source beside toolkits of every kind: what is compiled, what is left out, and why.

The package is built by setuptools' own hooks, as pip calls them, from a copy of its tree with compilers
that are scripts: they write down their arguments and make empty files.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from zokern import backends
from zokern.native import cuda

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("pybind11")
pytest.importorskip("ninja")

COMPILER = """#!/bin/sh
said=$(echo "== $0"; for each in "$@"; do echo "$each"; done)
printf '%s\n' "$said" >> {log}  # in one write: compilers run side by side
{fail}
while [ $# -gt 0 ]; do
  case "$1" in -o|-MF) touch "$2";; esac
  shift
done
"""
NVCC = """#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {version}, V{version}.1"; exit 0;;
  --list-gpu-code) printf 'sm_%s\\n' {known}; exit 0;;
esac
"""


class Tree:
    """A copy of what a build reads, a C++ compiler and a CUDA toolkit."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.log = folder / "tree", folder / "cuda", folder / "log"
        self.folder.mkdir()
        for name in ("setup.py", "build_cuda.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
            shutil.copy(ROOT / name, self.folder)
        shutil.copytree(ROOT / "csrc", self.folder / "csrc")
        for package in ("zokern", "triton_kernels"):
            (self.folder / package).mkdir()
            (self.folder / package / "__init__.py").touch()
        shutil.copy(ROOT / "zokern" / "version.py", self.folder / "zokern")
        self.compiler = self.script(folder / "bin" / "g++", COMPILER.format(log=self.log, fail=""))

    @staticmethod
    def script(path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def toolkit(
        self, version: str = "12.4", known: str = "80 90", library: str = "lib64", fail: str = ""
    ) -> Path:
        """`library`: the folder of the static runtime, or "" for none; `fail`: what each compilation does."""
        if library:
            (self.home / library).mkdir(parents=True)
            (self.home / library / "libcudart_static.a").touch()
        text = NVCC.format(version=version, known=known) + COMPILER.format(log=self.log, fail=fail)
        return self.script(self.home / "bin" / "nvcc", text)

    def build(self, mode: str = "auto") -> subprocess.CompletedProcess[str]:
        # -I: the tree is not on sys.path, as in pip's builds
        hook = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
        environment = {
            **os.environ,
            "ZOKERN_BUILD": mode,
            "CXX": str(self.compiler),
            "CUDA_HOME": str(self.home),
        }
        return subprocess.run(
            [sys.executable, "-I", "-c", hook, str(self.folder.parent / "wheel")],
            cwd=self.folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip

    def calls(self) -> list[list[str]]:
        """The arguments of every call of a compiler, its path first."""
        text = self.log.read_text() if self.log.exists() else ""
        return [call.splitlines() for call in text.split("== ") if call]

    def compiled(self, suffix: str) -> set[str]:
        """The files of this suffix that a compiler was given."""
        return {Path(a).name for call in self.calls() for a in call if a.endswith(suffix)}

    def said(self) -> str:
        """What the built library answers when asked why it has no CUDA kernels."""
        (define,) = {a for call in self.calls() for a in call if a.startswith("-DZK_NO_CUDA_REASON=")}
        compiler = shutil.which("g++") or shutil.which("clang++") or pytest.skip("no C++ compiler")
        path = self.folder.parent / "none.so"
        command = [compiler, define, "-fPIC", "-shared", self.folder / "csrc/cuda/none.cpp", "-o", path]
        subprocess.run(command, check=True)
        library = ctypes.CDLL(str(path))
        library.zk_cuda_last_error.restype = ctypes.c_char_p
        return library.zk_cuda_last_error().decode()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


ALL_CUDA = {path.name for path in (ROOT / "csrc" / "cuda").glob("*.cu")}


@pytest.mark.parametrize(
    ("known", "built"),
    [("50 80 86 89 90", [80, 90]), ("75 80 90 100 120", [80, 90, 100]), ("90 100", [90, 100])],
)
def test_architectures_are_those_that_nvcc_knows(tree: Tree, known: str, built: list[int]) -> None:
    nvcc = tree.toolkit(known=known)
    assert (run := tree.build()).returncode == 0, run.stdout + run.stderr
    assert tree.compiled(".cu") == ALL_CUDA and "none.cpp" not in tree.compiled(".cpp")
    wanted = {f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in built}
    wanted.add(f"-gencode=arch=compute_{built[-1]},code=compute_{built[-1]}")
    for call in tree.calls():
        if call[0] == str(nvcc):
            assert {a for a in call if a.startswith("-gencode")} == wanted
    assert f"-L{tree.home / 'lib64'}" in tree.calls()[-1]


FAULTS = {  # name: (toolkit, what is said of it)
    "knows nothing new enough": ({"known": "50 60 70"}, "compiles for none of sm_80, sm_90, sm_100"),
    "parameters end at 4 KB": ({"version": "11.8"}, "is of CUDA 11.8: kernel parameters of more than 4 KB need 12.1"),
    "no static runtime": ({"library": ""}, "libcudart_static.a is in none of lib64, lib, "),
    "cannot compile": (
        {"fail": 'echo "In file x.h:1:" >&2; echo "x.h(9): error: unsupported \\"GNU\\" version; cost \\$5" >&2; exit 1'},
        'x.h(9): error: unsupported "GNU" version; cost $5',
    ),
    "compiler not found": (
        {"fail": 'echo "nvcc fatal   : Host compiler not found" >&2; exit 1'},
        "nvcc fatal   : Host compiler not found",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_auto_goes_on_without_cuda_and_keeps_the_reason(tree: Tree, fault: str) -> None:
    toolkit, reason = FAULTS[fault]
    nvcc = tree.toolkit(**toolkit)
    assert (run := tree.build()).returncode == 0, run.stdout + run.stderr
    assert "no CUDA kernels in this build" in run.stdout and reason in run.stdout
    assert "none.cpp" in tree.compiled(".cpp") and "-lcudart_static" not in tree.calls()[-1]
    said = tree.said()
    assert said.startswith("no CUDA kernels in this build: ") and reason in said
    assert str(nvcc.parent.parent) in said


@pytest.mark.parametrize("fault", FAULTS)
def test_cuda_asked_for_by_name_is_an_error(tree: Tree, fault: str) -> None:
    toolkit, reason = FAULTS[fault]
    tree.toolkit(**toolkit)
    run = tree.build("cuda")
    assert (
        run.returncode != 0 and "ZOKERN_BUILD=cuda cannot be built: " in run.stderr and reason in run.stderr
    )
    assert not tree.compiled("_C.so")


def test_an_nvcc_that_does_not_run(tree: Tree) -> None:
    nvcc = tree.script(
        tree.home / "bin" / "nvcc", "#!/bin/sh\necho 'error while loading libz.so' >&2\nexit 127\n"
    )
    assert (run := tree.build()).returncode == 0, run.stdout + run.stderr
    reason = f"{nvcc} --version fails: error while loading libz.so"
    assert reason in run.stdout and tree.said() == f"no CUDA kernels in this build: {reason}"


def test_no_cuda_asked_for_is_the_reason(tree: Tree) -> None:
    tree.toolkit()
    assert tree.build("cpu").returncode == 0
    assert not tree.compiled(".cu") and "ZOKERN_BUILD=cpu" in tree.said()


@pytest.mark.parametrize("library", ["lib", "targets/x86_64-linux/lib", "lib/x86_64-linux-gnu"])
def test_layouts_of_other_distributions(tree: Tree, library: str) -> None:
    """conda has no lib64; Debian's libraries lie in the architecture's own folder."""
    tree.toolkit(library=library)
    assert (run := tree.build("cuda")).returncode == 0, run.stdout + run.stderr
    assert f"-L{tree.home / library}" in tree.calls()[-1]


def test_an_error_in_the_other_code_stays_an_error(tree: Tree) -> None:
    tree.toolkit()
    tree.script(tree.compiler, COMPILER.format(log=tree.log, fail="echo 'a.cpp:1: error: no' >&2; exit 1"))
    assert tree.build().returncode != 0


def test_the_reason_is_in_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "no CUDA kernels in this build: nvcc (CUDA 11.8) is too old"
    monkeypatch.setattr(
        cuda, "_C", SimpleNamespace(cuda_device_count=lambda: 0, cuda_last_error=lambda: said)
    )
    rows = {row["backend"]: row for row in backends.status()}
    assert rows["cuda"]["unavailable"] == said
