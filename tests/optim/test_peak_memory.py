"""Resident memory of full tuning: what a method takes beyond MeZO, measured in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# without these glibc keeps freed blocks, more or fewer of them by the order of allocations
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_replayed_snapshots_take_nothing_and_adamu_one_buffer() -> None:
    """Fails where a snapshot, a gradient or a second momentum of the weights' size is held at any time."""
    script = [sys.executable, "-m", "benchmarks.peak_memory", "--methods", "MeZO", "MeZO-SVRG", "ZOAdaMU"]
    result = subprocess.run(
        script,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **MALLOC, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    mezo, svrg, adamu = (row["peak"] for row in rows)
    assert mezo > rows[0]["trainables"]
    assert svrg < 1.02 * mezo
    assert adamu - mezo == pytest.approx(rows[0]["trainables"], rel=0.02)
