"""The kernels compile for NVIDIA devices as meant; no device is needed, only Triton's own tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("compile_kernels.py")
# What the compiler may contract is called `mul` and `add` without `.rn`; `.ftz` flushes subnormals,
# which the argument of the one square root never is (some versions of Triton write it there).
EXACT = {
    "add.rn.f32", "sub.rn.f32", "mul.rn.f32", "fma.rn.f32", "abs.f32",
    "sqrt.rn.f32", "sqrt.rn.ftz.f32",
    "add.rn.f32x2", "sub.rn.f32x2", "mul.rn.f32x2", "fma.rn.f32x2", "mul.rn.f64", "fma.rn.f64",
    "setp.nan.f32", "cvt.f32.f16", "cvt.rn.f16.f32", "cvt.rn.f16x2.f32", "cvt.f64.f32",
    "cvt.rn.f32", "cvt.rzi.u32.f32",
}  # fmt: skip


def compiled(tmp_path_factory: pytest.TempPathFactory, *arguments: str) -> list[dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    run = subprocess.run(
        [sys.executable, SCRIPT, *arguments], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return compiled(tmp_path_factory)


@pytest.fixture(scope="module")
def state_rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of the kernels with state and masks."""
    return compiled(tmp_path_factory, "states")


def test_every_device_and_dtype_compiles(rows: list[dict[str, Any]]) -> None:
    built = {(row["arch"], row["dtype"], row.get("STOCHASTIC", False)) for row in rows}
    for arch in (80, 90, 100):
        for dtype in ("fp32", "fp64", "bf16", "fp16"):
            assert (arch, dtype, False) in built
        assert (arch, "bf16", True) in built
        assert (arch, "fp16", True) in built


def test_no_kernel_spills(rows: list[dict[str, Any]]) -> None:
    assert [row for row in rows if row["stack"] or row["local"]] == []


def test_float_operations_are_exactly_rounded(rows: list[dict[str, Any]]) -> None:
    assert {op for row in rows for op in row["float_operations"]} - EXACT == set()


def test_seeds_scales_and_sizes_are_run_time_data(rows: list[dict[str, Any]]) -> None:
    """Typed and not specialised: no value of these arguments compiles the kernel anew."""
    scalars = {f"{name}{k}" for name in ("seed", "scale") for k in range(4)}
    for row in rows:
        assert {"n", "first", "stream"} <= set(row["run_time_arguments"])
        if row["kernel"] == "perturb":
            assert scalars | {"count", "decay"} <= set(row["run_time_arguments"])


def test_no_state_kernel_spills(state_rows: list[dict[str, Any]]) -> None:
    assert {(row["kernel"], row["arch"]) for row in state_rows} == {
        (kernel, arch) for kernel in ("adam", "adamu", "masked") for arch in (80, 90, 100)
    }
    assert [row for row in state_rows if row["stack"] or row["local"]] == []


def test_float_operations_of_state_kernels_are_exactly_rounded(state_rows: list[dict[str, Any]]) -> None:
    """The root of a second moment may be of a subnormal number: no `.ftz` there."""
    compared = {
        "setp.eq.f32",
        "setp.gt.f32",
        "setp.lt.f32",
        "setp.le.f32",
        "setp.le.f64",
        "setp.neu.f32",
        "abs.f64",
    }
    allowed = (EXACT - {"sqrt.rn.ftz.f32"}) | compared | {"div.rn.f32", "cvt.rn.f32.f64"}
    assert {op for row in state_rows for op in row["float_operations"]} - allowed == set()


def test_rates_and_seeds_of_state_kernels_are_run_time_data(state_rows: list[dict[str, Any]]) -> None:
    rates = {
        "adam": {
            "grad0",
            "displacement0",
            "minus_step",
            "root_scale",
            "eps",
            "l2",
            "beta1",
            "rest2",
            "seed0",
        },
        "adamu": {"scale", "displacement", "root_alpha", "root_rest", "sigma", "momentum_scale", "seed"},
        "masked": {"threshold", "scale0", "seed3"},
    }
    for row in state_rows:
        assert {"n", "first", "stream", "decay"} | rates[row["kernel"]] <= set(row["run_time_arguments"])


@pytest.fixture(scope="module")
def tt_rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of the tensor-train kernels."""
    return compiled(tmp_path_factory, "tt")


def test_no_tensor_train_kernel_spills(tt_rows: list[dict[str, Any]]) -> None:
    assert {(row["kernel"], row["arch"]) for row in tt_rows} == {
        (kernel, arch) for kernel in ("tt_groups", "tt_rows") for arch in (80, 90, 100)
    }
    assert [row for row in tt_rows if row["stack"] or row["local"]] == []


def test_tensor_train_products_are_fp32_fma(tt_rows: list[dict[str, Any]]) -> None:
    """No tensor core, no tf32, no 16-bit arithmetic; what is approximate belongs to the activations."""
    approximate = {"div.full.f32", "ex2.approx.f32", "ex2.approx.ftz.f32"}
    compared = {"setp.gt.f32", "setp.lt.f32", "setp.le.f32", "setp.neu.f32", "setp.num.f32"}
    compared |= {"min.f32", "max.f32", "neg.f32"}
    for row in tt_rows:
        found = set(row["float_operations"])
        assert "fma.rn.f32" in found or "fma.rn.f32x2" in found
        assert found - EXACT - compared - (approximate if row.get("ADAPTER") else set()) == set(), row


def test_sizes_of_tensor_trains_are_run_time_data(tt_rows: list[dict[str, Any]]) -> None:
    sizes = {"tt_rows": {"rows", "tiles", "x_stride", "scale"}, "tt_groups": {"steps", "stream"}}
    for row in tt_rows:
        assert sizes[row["kernel"]] <= set(row["run_time_arguments"])
