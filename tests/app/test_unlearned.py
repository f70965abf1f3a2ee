"""Runs that learn nothing, and numbers that a machine cannot be asked for, are errors."""

from __future__ import annotations

import json
import math
import os

import pytest

from zokern.app.options import MOST_THREADS
from zokern.app.tasks import UserError
from zokern.app.training import METHODS, Method, TrainOptions, run_training


@pytest.fixture(autouse=True)
def _no_curve(monkeypatch):
    monkeypatch.setattr("zokern.app.plots.learning_curve", lambda *args, **kwargs: None)


@pytest.fixture
def base(tmp_path):
    def options(**more):
        values = {"steps": 30, "test_size": 20, "batch_size": 8, "train_size": 64}
        return TrainOptions(task="digits", out=str(tmp_path / "run"), **{**values, **more})

    return options


def diverging(loss):
    """A method whose losses are what `loss` makes of them."""

    def step(optimizer, closures, progress):
        return optimizer.step(lambda: loss(closures.batch(), progress.step))

    return Method("mezo", "x", METHODS["mezo"].build, step=step)


@pytest.mark.parametrize("steps", [5, 30])
def test_a_rate_at_which_no_update_is_finite(base, tmp_path, quiet, steps, monkeypatch):
    """Losses are finite, and their difference times the rate is not."""
    far = diverging(lambda loss, step: loss * 1e30)
    monkeypatch.setitem(METHODS, "mezo", far)
    with pytest.raises(
        UserError, match=r"No update was finite in .*The losses are finite .*--lr 1e\+30, --eps"
    ):
        run_training(base(steps=steps, lr=1e30), display=quiet)
    lines = (tmp_path / "run" / "steps.jsonl").read_text().splitlines()
    assert len(lines) == 1 + min(steps, 20)
    if steps == 5:  # all of them were taken: the files of the end are there
        assert (tmp_path / "run" / "summary.json").exists() and (tmp_path / "run" / "weights").is_dir()
    with pytest.raises(UserError, match="No update was finite in"):
        run_training(resume=tmp_path / "run", display=quiet)


def test_twenty_skipped_steps_in_a_row_end_a_run_that_had_begun_well(base, tmp_path, quiet, monkeypatch):
    monkeypatch.setitem(METHODS, "mezo", diverging(lambda loss, step: math.inf if step >= 3 else loss))
    with pytest.raises(
        UserError, match=r"in 20 steps in a row, up to step 23.*losses are not finite .*inf, inf"
    ):
        run_training(base(), display=quiet)
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    skipped = [row["skipped"] for row in rows if row["kind"] == "step"]
    assert skipped == [False] * 3 + [True] * 20


def test_a_few_skipped_steps_are_none(base, quiet, monkeypatch):
    monkeypatch.setitem(METHODS, "mezo", diverging(lambda loss, step: math.nan if step % 4 else loss))
    run_training(base(), display=quiet)


@pytest.mark.parametrize("method", ["mezo", "zo-adam", "fo-sgd"])
def test_weights_that_are_of_no_use(base, tmp_path, quiet, method):
    with pytest.raises(
        UserError, match=r"The loss after training is nan: .*--lr 1e\+30.*written is in .*run"
    ):
        run_training(base(method=method, steps=3, lr=1e30), display=quiet)
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("name", ["lr", "eps", "weight_decay", "adam_eps", "lr_minibatch", "lora_alpha"])
def test_numbers_beyond_fp32_are_refused(base, tmp_path, quiet, name):
    flag = "--" + name.replace("_", "-")
    with pytest.raises(UserError, match=rf"{flag} must be at most 3\.40282346639e\+38, got 1e\+300"):
        run_training(base(**{name: 1e300}), display=quiet)
    assert not (tmp_path / "run").exists()


def test_threads_are_bounded(base, quiet):
    most = max(256, 4 * os.cpu_count())
    assert most == MOST_THREADS
    with pytest.raises(UserError, match=f"--threads must be at most {most}, got 1000000"):
        run_training(base(threads=1_000_000), display=quiet)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", "0.1", "--lr must be a number, got '0.1'"),
        ("lr", True, "--lr must be a number, got True"),
        ("steps", 2.5, "--steps must be a whole number, got 2.5"),
        ("steps", 1 << 63, "--steps must be at most 9.22337203685e.18, got 9223372036854775808"),
        ("lazy", 1, "--lazy must be true or false, got 1"),
        ("task", 7, "--task must be text, got 7"),
        ("task", "", "--task must not be empty, got ''"),
        ("out", "a\0b", r"--out must not hold a NUL character, got 'a\\x00b'"),
        ("label_words", "ab", "--label-words must be several values, got 'ab'"),
        ("label_words", ("a", 1), "--label-words must be text, got 1"),
        ("betas", (0.9, math.nan), "--betas must be finite, got nan"),
    ],
)
def test_values_of_another_kind(base, quiet, name, value, message):
    options = base()
    setattr(options, name, value)
    with pytest.raises(UserError, match=message):
        run_training(options, display=quiet)
