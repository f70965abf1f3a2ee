"""The seam: names, reasons, precedence, and that only the automatic choice falls back."""

import os
import subprocess
import sys

import pytest
import torch

import zokern
from zokern import backends


def test_status_has_a_row_for_every_backend_and_a_reason_for_each_missing_one() -> None:
    rows = {row["backend"]: row for row in backends.status()}
    assert list(rows) == ["cuda", "triton", "cpu", "reference"]
    assert rows["reference"]["unavailable"] == ""
    if not torch.cuda.is_available():
        assert rows["cuda"]["unavailable"]


def test_cpu_prefers_native_then_reference() -> None:
    assert backends.select("perturb_", "cpu")[0] == "cpu"
    assert backends.select("perturb_", "meta")[0] == "reference"


def test_describe_names_device_and_kernels() -> None:
    assert backends.describe("cpu") == f"cpu ({backends.available_isas()[-1]})"
    with zokern.use_backend("cpu", isa="portable"):
        assert backends.describe("cpu") == "cpu (portable)"
    with zokern.use_backend("reference"):
        assert backends.describe("cuda:1").startswith("cuda:1 (plain PyTorch, ")
    with zokern.use_backend("cpu"), pytest.raises(backends.BackendUnavailable, match="not cuda"):
        backends.describe("cuda")


def test_use_backend_is_scoped_and_nests() -> None:
    with zokern.use_backend("reference"):
        assert backends.select("perturb_", "cpu")[0] == "reference"
        with zokern.use_backend("cpu", isa="portable"):
            assert backends.select("perturb_", "cpu")[0] == "cpu"
            assert backends.requested() == ("cpu", "portable")
        assert backends.select("perturb_", "cpu")[0] == "reference"
    assert backends.requested()[0] == os.environ.get("ZOKERN_BACKEND")


@pytest.mark.parametrize(
    ("backend", "isa", "message"),
    [
        ("opencl", None, "unknown backend 'opencl'"),
        ("cpu", "sse9", "unknown instruction set 'sse9'"),
        ("reference", "avx2", "goes with backend 'cpu'"),
    ],
)
def test_unknown_names_are_refused(backend: str, isa: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message), zokern.use_backend(backend, isa=isa):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so CUDA is available")
def test_asking_for_cuda_without_a_gpu_says_why() -> None:
    with (
        pytest.raises(backends.BackendUnavailable, match="'cuda' was asked for"),
        zokern.use_backend("cuda"),
    ):
        pass


def test_a_backend_of_another_device_is_refused_not_replaced() -> None:
    with zokern.use_backend("cpu"), pytest.raises(backends.BackendUnavailable, match="not cuda"):
        backends.select("perturb_", "cuda")


def test_a_backend_named_in_the_call_serves_whatever_was_asked_for() -> None:
    with zokern.use_backend("cpu"):
        assert backends.select("perturb_", "cpu", "reference")[0] == "reference"
        with pytest.raises(backends.BackendUnavailable, match="does not have the op tt_linear_backward"):
            backends.select("tt_linear_backward", "cpu")


def _run(environment: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_environment_chooses_backend_and_isa() -> None:
    code = "import zokern; from zokern import backends; print(backends.select('perturb_', 'cpu')[0])"
    assert _run({"ZOKERN_BACKEND": "reference"}, code).stdout.strip() == "reference"
    code = "import zokern; from zokern.native.cpu import current_isa; print(current_isa())"
    assert _run({"ZOKERN_ISA": "portable"}, code).stdout.strip() == "portable"


def test_environment_typos_are_errors_not_fallbacks() -> None:
    code = "import torch, zokern; zokern.perturb_(torch.zeros(3), 1, 1.0)"
    result = _run({"ZOKERN_BACKEND": "cudda"}, code)
    assert result.returncode != 0 and "ZOKERN_BACKEND: unknown backend 'cudda'" in result.stderr
    result = _run({"ZOKERN_ISA": "avx9"}, code)
    assert result.returncode != 0 and "ZOKERN_ISA: unknown instruction set 'avx9'" in result.stderr
