"""The microbenchmarks stay alive under pytest-benchmark: a tiny case of each is timed, with its bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHOSEN = "1-thread and (tiny or (768x64 and rank5 and N1 and not N128 and not N16)) and (zokern or floor) and not 16"


def test_tiny_cases_are_timed_with_their_bytes(tmp_path):
    command = [sys.executable, "-m", "pytest", "benchmarks", "-k", CHOSEN, "--benchmark-enable"]
    command += ["--benchmark-max-time=0.01", "--benchmark-min-rounds=2", "--benchmark-warmup=off"]
    command += [f"--benchmark-json={tmp_path / 'micro.json'}", "-p", "no:cacheprovider"]
    # a worker of pytest-xdist, which this test may run in, measures nothing
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = json.loads((tmp_path / "micro.json").read_text())["benchmarks"]
    assert {row["name"].partition("[")[0] for row in rows} == {"test_perturb", "test_state", "test_tt"}
    for row in rows:
        noted, median = row["extra_info"], row["stats"]["median"]
        assert noted["gb_per_s"] == pytest.approx(noted["bytes"] / median / 1e9)
        assert row["group"].endswith("1 thread(s)")
    perturbed = [row for row in rows if row["name"].startswith("test_perturb")]
    assert {row["extra_info"]["bytes"] for row in perturbed} == {2 * 4 * (10_008 + 34 * 6)}
