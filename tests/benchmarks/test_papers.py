"""The scripts of benchmarks/papers stay alive: each runs its quick form and leaves its files."""

from __future__ import annotations

import gzip
import importlib
import json
import math
import pickle

import numpy as np
import pytest

from benchmarks.papers import common, mnist, numbers
from benchmarks.papers.least_squares import Linear, Problem, numpy_svrg
from benchmarks.papers.trajectories import SURFACES

# Those on functions and small perceptrons; the ones on language models have a test of their own.
SCRIPTS = [
    "least_squares",
    "mnist_batch",
    "stability",
    "eps_and_interval",
    "large_batch",
    "trajectories",
    "momentum_schedules",
    "query_schedule",
]


@pytest.mark.parametrize("name", SCRIPTS)
def test_quick_run_leaves_its_files(name, tmp_path):
    importlib.import_module(f"benchmarks.papers.{name}").main(["--quick", "--out", str(tmp_path)])
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["quick"] and record["seeds"] == [0]
    assert record["tables"] and all(
        len(row) == len(t["header"]) for t in record["tables"] for row in t["rows"]
    )
    page = (tmp_path / f"{name}.md").read_text()
    assert record["claim"] in page and record["agrees"] in page and record["differs"] in page
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_index_names_every_result(tmp_path):
    common.write_index(common.RESULTS, tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    for file in common.RESULTS.glob("*.json"):
        record = json.loads(file.read_text())
        assert not record["quick"], f"{file.name} is of a quick run"
        assert f"benchmarks.papers.{record['name']}`" in text and record["agrees"] in text


def test_seeds_option_counts(tmp_path):
    arguments = {"name": "x", "source": "s", "claim": "c"}
    assert common.Experiment.start(["--seeds", "2"], **arguments).seeds == [0, 1]
    with pytest.raises(SystemExit):
        common.Experiment.start(["--seeds", "0"], **arguments)


def test_numbers_that_are_not_finite():
    assert numbers.mean_std([1.0, math.inf]) == "diverged"
    assert numbers.median([1.0, math.nan, 2.0]) == 2.0
    assert mnist.outcome([0.5, math.nan]) == "1 of 2 diverged"
    assert numbers.short(3e-4) == "3e-4"


def test_least_squares_gap_is_the_excess_loss():
    problem = Problem.draw(0)
    model = Linear()
    x, y = problem.x.double(), problem.y.double()

    def loss(w):
        return float(((x @ w - y) ** 2).mean())

    excess = loss(model.w.detach().double()) - loss(problem.best)
    assert problem.gap(model.w) == pytest.approx(excess, rel=1e-9)
    assert numpy_svrg(problem, 0, (3e-3, 1e-3), budget=4e5) < 0.5 * problem.gap(model.w)


@pytest.mark.parametrize("name", SURFACES)
def test_surface_is_zero_at_its_minimum_only(name):
    surface = SURFACES[name]
    at = [np.float64(v) for v in surface.minimum]
    assert surface.f(*at) == pytest.approx(0.0, abs=1e-12)
    for dx, dy in ((0.1, 0.0), (0.0, 0.1), (-0.1, 0.1)):
        assert surface.f(at[0] + dx, at[1] + dy) > 1e-3


def test_mnist_file_is_read_without_running_what_it_names(tmp_path):
    good, bad = tmp_path / "good.gz", tmp_path / "bad.gz"
    split = (np.zeros((2, 784), np.float32), np.array([3, 4]))
    with gzip.open(good, "wb") as file:
        pickle.dump((split, split, split), file, protocol=3)
    x, y, _, test_y = mnist.read(good)
    assert x.shape == (2, 784) and y.tolist() == [3, 4] == test_y.tolist()
    with gzip.open(bad, "wb") as file:
        pickle.dump(print, file)
    with pytest.raises(pickle.UnpicklingError, match="print"):
        mnist.read(bad)


@pytest.mark.network
def test_mnist_package(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOKERN_CACHE", str(tmp_path))
    data = mnist.load()
    assert data.x.shape == (50_000, 784) and data.test_x.shape == (10_000, 784)
    assert data.x.min() == 0.0 and 0.9 < data.x.max() <= 1.0
    assert data.test_y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
