"""Compiles the kernels for NVIDIA devices without having one; prints a JSON line a variant.

Run by test_compile.py in a process of its own, as TRITON_INTERPRET turns compilation off:

    python tests/triton/compile_kernels.py           all variants
    python tests/triton/compile_kernels.py brief     bf16 and fp32, one seed, sm_90
"""

from __future__ import annotations

import heapq
import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from zokern import triton_kernels

perturb = triton_kernels.perturb

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
DTYPES = ("fp32", "bf16", "fp16", "fp64")
ALIGNED = [["tt.divisibility", 16]]
Variant = dict[str, Any]


def variants() -> Iterator[Variant]:
    """Every dense variant on every device; of the strided and unaligned ones the extremes."""
    for arch, dtype, gaussian, terms in itertools.product((90, 80, 100), DTYPES, (True, False), (1, 4, 0)):
        for stochastic in (False, True) if dtype in ("bf16", "fp16") else (False,):
            yield {
                "kernel": "perturb", "arch": arch, "dtype": dtype, "TERMS": terms,
                "GAUSSIAN": gaussian, "STOCHASTIC": stochastic,
            }  # fmt: skip
    one_seed = {"kernel": "perturb", "TERMS": 1, "GAUSSIAN": True, "STOCHASTIC": False}
    for arch in (90, 80, 100):
        yield {**one_seed, "arch": arch, "dtype": "fp64", "rank": 8, "TERMS": 0}
        yield {**one_seed, "arch": arch, "dtype": "bf16", "rank": 8, "TERMS": 0, "STOCHASTIC": True}
    yield {**one_seed, "arch": 90, "dtype": "bf16", "rank": 2}
    yield {**one_seed, "arch": 90, "dtype": "bf16", "aligned": False}
    for dtype, gaussian in itertools.product(DTYPES, (True, False)):
        yield {"kernel": "normal", "arch": 90, "dtype": dtype, "GAUSSIAN": gaussian}


def compile_variant(v: Variant) -> Any:
    """Compiles for a launch with 16-byte aligned pointers and int32 strides."""
    kernel = getattr(perturb, f"{v['kernel']}_kernel")
    signature: dict[str, Any] = {}
    constants: dict[Any, Any] = {}
    attributes: dict[Any, Any] = {}
    for i, parameter in enumerate(kernel.params):
        name = parameter.name
        if parameter.is_constexpr or (name == "table" and v["TERMS"] > 0):
            signature[name] = "constexpr"
            constants[(i,)] = perturb.BLOCK if name == "BLOCK" else v.get(name)
        elif name in ("params", "out", "table"):
            signature[name] = "*i64" if name == "table" else f"*{v['dtype']}"
            attributes[(i,)] = ALIGNED
        elif name.startswith(("sizes", "strides")):
            signature[name] = ("i32",) * v.get("rank", 0)
        else:
            signature[name] = parameter.annotation_type or "fp32"
            if name == "head" and v.get("aligned", True):
                attributes[(i,)] = ALIGNED
    return triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", v["arch"], 32),
        options=perturb.OPTIONS,
    )


def tool(name: str, *arguments: str) -> str:
    run = subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True)
    return run.stdout + run.stderr


def shortest_path(sass: str) -> int | None:
    """Instructions a thread executes from entry through a 16-byte store to exit.

    In a kernel without loops that is a program that needs no mask: masks and the square root's
    slow path are detours.
    """
    labels: dict[str, int] = {}
    code: list[str] = []
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            code.append(instruction[1])
    following: list[list[int]] = [[] for _ in code]
    cost = [1] * len(code)
    for i, text in enumerate(code):
        operation = re.sub(r"^@!?U?P\w+\s+", "", text)
        jump = re.match(r"BRA.*\((\.L_x_\d+)\)", operation)
        if jump:
            following[i].append(labels[jump[1]])
        unconditional = operation.startswith(("EXIT", "RET")) or operation.startswith("BRA `")
        if (operation != text or not unconditional) and i + 1 < len(code):
            following[i].append(i + 1)
        if operation.startswith("CALL"):
            cost[i] = 10**6
    preceding: list[list[int]] = [[] for _ in code]
    for i, targets in enumerate(following):
        for target in targets:
            preceding[target].append(i)

    def distances(sources: list[int], edges: list[list[int]]) -> dict[int, int]:
        found: dict[int, int] = {}
        queue = [(cost[i], i) for i in sources]
        while queue:
            length, i = heapq.heappop(queue)
            if i not in found:
                found[i] = length
                for j in edges[i]:
                    heapq.heappush(queue, (length + cost[j], j))
        return found

    exits = [i for i, text in enumerate(code) if re.search(r"\bEXIT\b", text)]
    there, back = distances([0], following), distances(exits, preceding)
    stores = [i for i, text in enumerate(code) if "STG.E.128" in text and i in there and i in back]
    return max((there[i] + back[i] - 1 for i in stores), default=None)


def report(v: Variant) -> dict[str, Any]:
    compiled = compile_variant(v)
    ptx = compiled.asm["ptx"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        resources = tool("cuobjdump", "-res-usage", file.name)
        usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", resources))
        row: dict[str, Any] = {**v, "registers": int(usage["REG"])}
        row["stack"], row["local"] = int(usage["STACK"]), int(usage["LOCAL"])
        if v["arch"] == 90 and v.get("TERMS", 1) == 1 and v.get("rank", 0) == 0:
            path = shortest_path(tool("nvdisasm", "-c", file.name))
            per_thread = perturb.BLOCK / (32 * perturb.OPTIONS["num_warps"])
            row["instructions_per_element"] = path and round(path / per_thread, 1)
    operation = r"^\s+(?:@\S+ )?((?!ld|st|mov|selp)[a-z]\w*\.[\w.]*\bb?f(?:16|32|64)\w*)"
    kernel = getattr(perturb, f"{v['kernel']}_kernel")
    row["run_time_arguments"] = [
        p.name
        for p in kernel.params
        if p.annotation_type == "fp32" or (p.annotation_type and p.do_not_specialize)
    ]
    row["float_operations"] = sorted(set(re.findall(operation, ptx, re.M)))
    return row


if __name__ == "__main__":
    chosen = variants()
    if sys.argv[1:] == ["brief"]:
        chosen = (v for v in chosen if v["arch"] == 90 and v["dtype"] in ("bf16", "fp32"))
        chosen = (v for v in chosen if v.get("TERMS", 1) == 1)
    for variant in chosen:
        print(json.dumps(report(variant)), flush=True)
