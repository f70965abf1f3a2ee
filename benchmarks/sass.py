"""Instructions per element of the CUDA kernels, from the disassembly; no device is needed.

    python benchmarks/sass.py [--archs 80 90 100] [--write]

Compiles csrc/cuda/perturb.cu to one cubin per architecture, finds the loop over 16-byte vectors of
each kernel and dtype, and counts the instructions of the shortest way around it that loads, draws
and stores once (rare paths, such as infinities in stochastic rounding, are not on it).
With --write, replaces benchmarks/results/sass.jsonl: one JSON line per loop.

The budget is the model of an H200 (132 SM x 4 schedulers x 32 lanes x 1.98 GHz against 4.3 TB/s of
copying): 7.8 instructions per byte, 31.1 per bf16 element in place, 62.2 per fp32 element. At or
below it a kernel waits for memory. It is a model until a device has run it.
"""

from __future__ import annotations

import argparse
import heapq
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "csrc" / "cuda" / "perturb.cu"
KERNELS = ("csrc/core", "csrc/cuda")  # what the counts depend on
RESULTS = ROOT / "benchmarks" / "results" / "sass.jsonl"
FLAGS = ["-std=c++17", "-O3", "--fmad=false"]
ARCHS = (80, 90, 100)
LANES_PER_SECOND = 132 * 4 * 32 * 1.98e9
COPY_BYTES_PER_SECOND = 4.3e12
BUDGET_PER_BYTE = LANES_PER_SECOND / COPY_BYTES_PER_SECOND
ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
VARIANTS = {  # template arguments of perturb_dense: single, rademacher, stochastic
    "100": "single gaussian nearest",
    "000": "gaussian nearest",
    "001": "gaussian stochastic",
    "010": "rademacher nearest",
    "011": "rademacher stochastic",
}
WIDE = r"IMAD\.WIDE\.U32 .*0x"  # the multiplications of Philox: 18 to 20 a block, some hoisted
PIPES = {  # which unit issues what, for the breakdown
    "wide": r"IMAD\.WIDE",
    "fma": r"FFMA|FMUL|FADD|IMAD|HFMA2|HADD2|HMUL2",
    "mufu": r"MUFU",
    "memory": r"LD|ST",
    "uniform": r"U[A-Z]|R2UR|S2UR|VOTEU",
    "control": r"BRA|BSSY|BSYNC|EXIT|CALL|RET|NOP|WARPSYNC|BREAK|YIELD",
}


def find_nvcc() -> str | None:
    return shutil.which("nvcc") or next(
        (str(path) for path in [Path("/usr/local/cuda/bin/nvcc")] if path.is_file()), None
    )


def find_nvdisasm() -> str | None:
    """CUDA's, or the one that comes with Triton."""
    if path := shutil.which("nvdisasm"):
        return path
    spec = find_spec("triton")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "backends", "nvidia", "bin", "nvdisasm")
        if path.is_file():
            return str(path)
    return None


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def nvcc_version(nvcc: str) -> str:
    text = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    return re.search(r"V([\d.]+)", text)[1]


@dataclass(frozen=True)
class Resources:
    """What ptxas says of one kernel."""

    registers: int
    stack_bytes: int
    spill_bytes: int


def compile_cubin(nvcc: str, source: Path, arch: int, cubin: Path) -> dict[str, Resources]:
    """Compiles one architecture; returns the resources of each kernel by mangled name.

    Raises:
        RuntimeError: nvcc failed; the message is its output.
    """
    command = [nvcc, *FLAGS, f"-arch=sm_{arch}", "-cubin", "-Xptxas=-v"]
    command += ["-o", str(cubin), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    found = {}
    pattern = (
        r"Compiling entry function '(\S+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers"
    )
    report = re.findall(pattern, done.stdout + done.stderr, re.S)
    for name, stack, stores, loads, registers in report:
        found[name] = Resources(int(registers), int(stack), int(stores) + int(loads))
    return found


@dataclass
class Function:
    """Instructions of one kernel and where its branches go."""

    code: list[str] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def target(self, i: int) -> int | None:
        """Where the branch at `i` goes; None for any other instruction."""
        if not re.match(r"(@!?U?P\d+ )?(BRA|BRX|JMP)\b", self.code[i]):
            return None
        label = re.search(r"`\((\.\S+?)\)", self.code[i])
        return self.labels.get(label[1]) if label else None

    def after(self, i: int) -> list[int]:
        target = self.target(i)
        if target is None:
            return [] if re.match(r"(EXIT|RET)", self.code[i]) else [i + 1]
        conditional = re.match(r"@|BRA(\.\w+)* !?U?P\d", self.code[i])
        return [target, i + 1] if conditional else [target]

    def loops(self) -> list[tuple[int, int]]:
        """(first, last) instruction of every loop, by its backward branch, innermost first."""
        ends: dict[int, int] = {}
        for i in range(len(self.code)):
            target = self.target(i)
            if target is not None and target < i:
                ends[target] = max(ends.get(target, 0), i)
        return sorted(ends.items(), key=lambda loop: loop[1] - loop[0])

    def shortest(self, first: int, last: int, need: dict[str, int]) -> list[int] | None:
        """The shortest way from `first` to `last` that stays between them and meets `need`.

        `need` says how many instructions on the way match a pattern, at least.
        """
        kinds = [[bool(re.search(p, line)) for p in need] for line in self.code[first : last + 1]]
        goal = tuple(need.values())

        def take(seen: tuple[int, ...], i: int) -> tuple[int, ...]:
            return tuple(min(g, s + k) for g, s, k in zip(goal, seen, kinds[i - first]))

        start = (first, take((0,) * len(goal), first))
        queue, before, done = [(1, start)], {start: None}, set()
        while queue:
            cost, state = heapq.heappop(queue)
            if state in done:
                continue
            done.add(state)
            i, seen = state
            if i == last and seen == goal:
                path = []
                while state is not None:
                    path.append(state[0])
                    state = before[state]
                return path[::-1]
            for j in self.after(i):
                if first < j <= last:
                    step = (j, take(seen, j))
                    if step not in done and step not in before:
                        before[step] = state
                        heapq.heappush(queue, (cost + 1, step))
        return None


def disassemble(nvdisasm: str, cubin: Path) -> dict[str, Function]:
    command = [nvdisasm, "-c", str(cubin)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    functions: dict[str, Function] = {}
    current: Function | None = None
    for line in text.splitlines():
        if found := re.match(r"\.text\.(\S+):", line.strip()):
            current = functions.setdefault(found[1], Function())
        elif current is not None and (found := re.match(r"(\.L_\S+):", line)):
            current.labels[found[1]] = len(current.code)
        elif current is not None and (found := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?)\s*;", line)):
            current.code.append(found[1])
    return functions


def pipe(instruction: str) -> str:
    opcode = re.sub(r"^@!?U?P\d+ ", "", instruction)
    return next((name for name, pattern in PIPES.items() if re.match(pattern, opcode)), "alu")


@dataclass
class Row:
    """The loop over vectors of one kernel and dtype; counts are per element, 8 in a vector."""

    arch: int
    kernel: str
    dtype: str
    instructions: float  # one term
    further_term: float | None  # each term after the first
    chunk: int | None  # instructions around the loop, once a chunk of up to 65,536 elements
    registers: int
    local_bytes: int
    budget: float
    pipes: dict[str, float]


@dataclass
class VectorLoop:
    """Ways through one loop over vectors, as positions of instructions."""

    dtype: str
    once: list[int]  # around the loop, one term
    term: list[int]  # around the loop over further terms
    chunk: list[int]  # around the loop over chunks, with one vector


def vector_loops(function: Function, variant: str) -> list[VectorLoop]:
    """The vector loops of a dense kernel; `variant` is a key of VARIANTS."""
    single, rademacher, stochastic = (digit == "1" for digit in variant)
    draw = {r"MUFU\.RSQ": 0 if rademacher else 4, WIDE: 17}
    found: list[VectorLoop] = []
    for first, last in function.loops():
        text = "\n".join(function.code[first : last + 1])
        if "STG.E.128" not in text or any(first <= loop.once[0] <= last for loop in found):
            continue  # no vector loop, or a loop around one
        if "HADD2.F32" in text:
            dtype, vectors = "fp16", 1
        elif "BF16" in text or "PRMT" in text:
            dtype, vectors = "bf16", 1
        else:
            dtype, vectors = "fp32", 2
        draws = 2 if stochastic and dtype != "fp32" else 1
        move = {r"LDG\.E\.128": vectors, r"STG\.E\.128": vectors}
        need = {**move, **draw, WIDE: 17 * draws}
        once = function.shortest(first, last, need)
        if once is None:
            continue
        loop = VectorLoop(dtype, once, [], [])
        for a, b in function.loops():
            if not single and first < a <= b < last:
                loop.term = loop.term or function.shortest(a, b, draw) or []
            if a < first and last < b:
                loop.chunk = loop.chunk or function.shortest(a, b, need) or []
        found.append(loop)
    return found


def measure(nvcc: str, nvdisasm: str, arch: int, folder: Path) -> list[Row]:
    """Compiles and counts one architecture."""
    cubin = folder / f"perturb_{arch}.cubin"
    resources = compile_cubin(nvcc, SOURCE, arch, cubin)
    rows = []
    for name, function in disassemble(nvdisasm, cubin).items():
        found = re.search(r"perturb_dense.*DenseELi(\d+)EEELb(\d)ELb(\d)ELb(\d)E", name)
        if not found or found[1] == "40":  # the small launch is the same code
            continue
        variant, used = found[2] + found[3] + found[4], resources[name]
        for loop in vector_loops(function, variant):
            pipes = Counter(pipe(function.code[i]) for i in loop.once)
            row = Row(
                arch=arch,
                kernel=VARIANTS[variant],
                dtype=loop.dtype,
                instructions=len(loop.once) / 8,
                further_term=len(loop.term) / 8 or None,
                chunk=len(loop.chunk) - len(loop.once) if loop.chunk else None,
                registers=used.registers,
                local_bytes=used.stack_bytes + used.spill_bytes,
                budget=round(2 * ITEM_BYTES[loop.dtype] * BUDGET_PER_BYTE, 1),
                pipes={name: n / 8 for name, n in sorted(pipes.items())},
            )
            rows.append(row)
    order = list(VARIANTS.values())
    return sorted(rows, key=lambda row: (order.index(row.kernel), row.dtype))


COLUMNS = {
    "arch": lambda row: f"sm_{row.arch}",
    "kernel": lambda row: row.kernel,
    "dtype": lambda row: row.dtype,
    "instr/elem": lambda row: f"{row.instructions:.1f}",
    "budget": lambda row: f"{row.budget:.1f}",
    "further term": lambda row: f"{row.further_term:.1f}" if row.further_term else "",
    "per chunk": lambda row: str(row.chunk) if row.chunk else "",
    "alu": lambda row: f"{row.pipes['alu']:.1f}",
    "fma": lambda row: f"{row.pipes['fma']:.1f}",
    "wide": lambda row: f"{row.pipes['wide']:.1f}",
    "registers": lambda row: str(row.registers),
    "local B": lambda row: str(row.local_bytes),
}


def table(rows: list[Row]) -> str:
    lines = [list(COLUMNS), *([cell(row) for cell in COLUMNS.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    padded = ("  ".join(cell.ljust(w) for cell, w in zip(line, widths)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", type=int, nargs="+", default=ARCHS)
    parser.add_argument("--write", action="store_true", help="replace the recorded result")
    options = parser.parse_args()
    nvcc, nvdisasm = find_nvcc(), find_nvdisasm()
    if nvcc is None or nvdisasm is None:
        sys.exit(f"needs nvcc (found: {nvcc}) and nvdisasm (found: {nvdisasm})")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for arch in options.archs:
            rows += measure(nvcc, nvdisasm, arch, Path(folder))
    print(f"nvcc {nvcc_version(nvcc)}; budget: in place on an H200, a model")
    print(table(rows))
    if options.write:
        commit = git("log", "-1", "--format=%h", "--", *KERNELS)
        commit += "-dirty" if git("diff", "--name-only", "HEAD", "--", *KERNELS) else ""
        stamp = {"commit": commit, "nvcc": nvcc_version(nvcc)}
        RESULTS.parent.mkdir(exist_ok=True)
        lines = (json.dumps({**stamp, **asdict(row)}) for row in rows)
        RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
