"""Compiles the kernels for NVIDIA devices without having one; prints a JSON line a variant.

Run by test_compile.py in a process of its own, as TRITON_INTERPRET turns compilation off:

    python tests/triton/compile_kernels.py           all variants of the move
    python tests/triton/compile_kernels.py states    the kernels with state and masks
    python tests/triton/compile_kernels.py tt        the tensor-train kernels
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
KERNELS = {
    "perturb": perturb.perturb_kernel,
    "normal": perturb.normal_kernel,
    "adam": triton_kernels.adam.adam_kernel,
    "adamu": triton_kernels.adamu.adamu_kernel,
    "masked": triton_kernels.masked.masked_kernel,
    "tt_groups": triton_kernels.tt_groups.groups_kernel,
    "tt_rows": triton_kernels.tt.rows_kernel,
}
STATE_KERNELS = ("adam", "adamu", "masked")

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
DTYPES = ("fp32", "bf16", "fp16", "fp64")
ALIGNED = [["tt.divisibility", 16]]
POINTERS = {"table": "*i64", "masks": "*u8", "exp_avgs": "*fp32", "exp_avg_sqs": "*fp32", "maxima": "*fp32"}
POINTERS |= {"x": "", "y": "", "workspace": "*fp32"}
Variant = dict[str, Any]  # constants by name; "absent": pointers that are None


def variants() -> Iterator[Variant]:
    """Every dense variant on sm_90, on other devices those that take most registers; of the strided and
    unaligned ones the extremes."""
    for arch, dtype, gaussian, terms in itertools.product((90, 80, 100), DTYPES, (True, False), (1, 4, 0)):
        if arch != 90 and (not gaussian or terms == 1):
            continue
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


def state_variants() -> Iterator[Variant]:
    """On sm_90 every rule and what it may do without; on every device those that take most registers:
    all of the state, several seeds, eight dimensions."""
    for arch, dtype in itertools.product((90, 80, 100), ("fp32", "bf16", "fp64")):
        if arch != 90 and dtype == "fp32":
            continue
        place = {"arch": arch, "dtype": dtype, "STOCHASTIC": dtype == "bf16", "GAUSSIAN": True}
        if arch == 90 and dtype != "fp64":
            for variant in range(3):
                absent = ["table", "maxima"][: 1 + (variant < 2)]
                yield {**place, "kernel": "adam", "VARIANT": variant, "SINGLE": True, "absent": absent}
            yield {**place, "kernel": "adamu", "UPDATE": False}
            yield {**place, "kernel": "masked", "TERMS": 1, "absent": ["table", "masks"]}
        for rank in (0, 8) if dtype == "bf16" else (0,):
            yield {**place, "kernel": "adam", "VARIANT": 2, "SINGLE": False, "rank": rank}
            yield {**place, "kernel": "adamu", "UPDATE": True, "rank": rank}
            yield {**place, "kernel": "masked", "TERMS": 0, "rank": rank}


def tt_variants() -> Iterator[Variant]:
    """On sm_90 what a device runs most, one row and four; on every device what takes most registers."""
    rows = {"kernel": "tt_rows", "BLOCK": triton_kernels.tt.BLOCK}
    for arch in (90, 80, 100):
        for dtype in ("fp32", "bf16"):
            most = {"ADAPTER": True, "ACTIVATION": "gelu", "BR": 4, "BP0": 8, "BP1": 8, "BC": 16}
            yield {**rows, "arch": arch, "dtype": dtype, **most}
        yield {"kernel": "tt_groups", "arch": arch, "dtype": "fp32", "NOISE": True, "GAUSSIAN": True,
               **triton_kernels.tt_groups.BLOCKS}  # fmt: skip
    one = {"ACTIVATION": "tanh", "BR": 1, "BP0": 8, "BP1": 8, "BC": 8}
    yield {**rows, "arch": 90, "dtype": "fp16", "wide": True, "ADAPTER": True, **one}
    yield {**rows, "arch": 90, "dtype": "bf16", "ADAPTER": False, **one, "BP0": 1, "BP1": 1}
    yield {"kernel": "tt_groups", "arch": 90, "dtype": "fp32", "NOISE": False, "GAUSSIAN": True,
           **triton_kernels.tt_groups.BLOCKS}  # fmt: skip


def options_of(v: Variant) -> dict[str, Any]:
    if v["kernel"].startswith("tt"):
        return (triton_kernels.tt if v["kernel"] == "tt_rows" else triton_kernels.tt_groups).OPTIONS
    if v["kernel"] in STATE_KERNELS:
        return triton_kernels.state.options((2,) * v.get("rank", 0))
    return perturb.OPTIONS


def compile_variant(v: Variant) -> Any:
    """Compiles for a launch with 16-byte aligned pointers and int32 strides."""
    kernel = KERNELS[v["kernel"]]
    rank = v.get("rank", 0)
    signature: dict[str, Any] = {}
    constants: dict[Any, Any] = {}
    attributes: dict[Any, Any] = {}
    for i, parameter in enumerate(kernel.params):
        name = parameter.name
        absent = name in v.get("absent", ()) or (name == "table" and v.get("TERMS", 0) > 0)
        if parameter.is_constexpr or absent:
            signature[name] = "constexpr"
            constants[(i,)] = v.get(name, perturb.BLOCK if name == "BLOCK" else None)
        elif name in ("weights", "out", *POINTERS):
            dtype = "fp32" if name == "y" and v.get("wide") else v["dtype"]
            signature[name] = POINTERS.get(name) or f"*{dtype}"
            attributes[(i,)] = ALIGNED
        elif name.startswith(("sizes", "strides")):
            signature[name] = ("i32",) * rank
        else:
            signature[name] = parameter.annotation_type or "fp32"
            if name == "head" and v.get("aligned", True):
                attributes[(i,)] = ALIGNED
    return triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", v["arch"], 32),
        options=options_of(v),
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
        if v["arch"] == 90 and v.get("TERMS", 1) == 1 and v.get("rank", 0) == 0 and "tt" not in v["kernel"]:
            path = shortest_path(tool("nvdisasm", "-c", file.name))
            per_thread = perturb.BLOCK / (32 * perturb.OPTIONS["num_warps"])
            row["instructions_per_element"] = path and round(path / per_thread, 1)
    operation = r"^\s+(?:@\S+ )?((?!ld|st|mov|selp)[a-z]\w*\.[\w.]*\bb?f(?:16|32|64)\w*)"
    kernel = KERNELS[v["kernel"]]
    row["run_time_arguments"] = [
        p.name
        for p in kernel.params
        if p.annotation_type == "fp32" or (p.annotation_type and p.do_not_specialize)
    ]
    row["float_operations"] = sorted(set(re.findall(operation, ptx, re.M)))
    return row


if __name__ == "__main__":
    modes = {"states": state_variants, "tt": tt_variants}
    chosen = modes.get(sys.argv[1] if sys.argv[1:] else "", variants)()
    if sys.argv[1:] == ["brief"]:
        chosen = (v for v in chosen if v["arch"] == 90 and v["dtype"] in ("bf16", "fp32"))
        chosen = (v for v in chosen if v.get("TERMS", 1) == 1)
    for variant in chosen:
        print(json.dumps(report(variant)), flush=True)
