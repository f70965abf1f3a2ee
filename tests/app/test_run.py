"""Whole runs, in this process: files, learning, schedules, evaluations, stopping and resuming."""

from __future__ import annotations

import json
import math
import signal

import pytest
import torch
from safetensors.torch import load_file

from zokern.app.data import batch_indices, full_sample
from zokern.app.options import lr_factor
from zokern.app.tasks import UserError
from zokern.app.training import METHODS, Method, Stopped, TrainOptions, run_training

from .conftest import as_version_1


@pytest.fixture
def base(tmp_path):
    """Options of a small digits run; `base(name, ...)` gives each run its own folder."""

    def options(name="run", **more):
        values = {"steps": 12, "checkpoint_every": 5, "num_queries": 2, "test_size": 50}
        return TrainOptions(task="digits", out=str(tmp_path / name), **{**values, **more})

    return options


def rows(folder, kind):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def weights(folder):
    return load_file(folder / "weights" / "model.safetensors")


def assert_same_weights(one, two):
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_default_digits_run_learns(tmp_path, quiet):
    summary = run_training(TrainOptions(task="digits", steps=300, out=str(tmp_path)), display=quiet)
    assert summary["before"]["accuracy"] < 0.2
    assert summary["after"]["accuracy"] > 0.5


def test_leaves_everything_it_promises(base, tmp_path, quiet):
    summary = run_training(base(eval_every=4), display=quiet)
    folder = tmp_path / "run"
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "steps.jsonl",
        "metrics.jsonl",
        "checkpoint.pt",
        "learning_curve.png",
        "summary.json",
        "weights",
    }
    assert [row["step"] for row in rows(folder, "step")] == list(range(1, 13))
    assert [row["step"] for row in rows(folder, "eval")] == [0, 4, 8, 12]
    assert json.loads((folder / "summary.json").read_text()) == json.loads(json.dumps(summary))
    config = json.loads((folder / "config.json").read_text())
    assert config["options"]["lr"] == 3e-2  # what was not given is written down too
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    text = quiet.console.file.getvalue()
    for word in ("digits", "before training", "after 12 steps", "steps/s", "outside forwards"):
        assert word in text


def test_weights_are_those_of_the_last_step(base, tmp_path, quiet):
    run_training(base(), display=quiet)
    checkpoint = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    for name, value in weights(tmp_path / "run").items():
        assert torch.equal(checkpoint["parameters"][name], value)


def test_same_seed_same_run_other_seed_other_run(base, tmp_path, quiet):
    state = torch.random.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_training(base(name, seed=seed), display=quiet)
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    assert not torch.equal(weights(tmp_path / "a")["layer1.weight"], weights(tmp_path / "c")["layer1.weight"])
    assert torch.equal(torch.random.get_rng_state(), state)


class InterruptAt:
    """A method whose optimizer is interrupted in its n-th evaluation from now."""

    def __init__(self, evaluations, error=KeyboardInterrupt):
        self.left, self.error = evaluations, error

    def __call__(self, optimizer, closures, progress):
        def closure():
            self.left -= 1
            if self.left == 0:
                raise self.error
            return closures.batch()

        return optimizer.step(closure)


@pytest.fixture
def interrupt(monkeypatch):
    def install(evaluations, error=KeyboardInterrupt):
        method = Method("mezo", "interrupted", METHODS["mezo"].build, step=InterruptAt(evaluations, error))
        monkeypatch.setitem(METHODS, "mezo", method)

    yield install


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("evaluation", [1, 4 * 4 + 2, 4 * 5 + 1, 4 * 9 + 3])
def test_interrupted_and_resumed_is_uninterrupted(
    base, tmp_path, quiet, interrupt, monkeypatch, evaluation, dtype
):
    more = {"dtype": dtype, "eval_every": 4, "momentum": 0.5, "lr_schedule": "cosine"}
    run_training(base("whole", **more), display=quiet)
    with monkeypatch.context():
        interrupt(evaluation)
        with pytest.raises(Stopped) as stopped:
            run_training(base("cut", **more), display=quiet)
    monkeypatch.undo()
    assert stopped.value.step == (evaluation - 1) // 4
    run_training(resume=tmp_path / "cut", display=quiet)
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")
    for name in ("whole", "cut"):
        assert [r["step"] for r in rows(tmp_path / name, "step")] == list(range(1, 13))
        assert [r["step"] for r in rows(tmp_path / name, "eval")] == [0, 4, 8, 12]
    losses = [[r["loss"] for r in rows(tmp_path / name, "step")] for name in ("whole", "cut")]
    assert losses[0] == losses[1]


def test_termination_signal_is_an_interrupt(base, quiet, monkeypatch):
    def step(optimizer, closures, progress):
        if progress.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return optimizer.step(closures.batch)

    monkeypatch.setitem(METHODS, "mezo", Method("mezo", "x", METHODS["mezo"].build, step=step))
    with pytest.raises(Stopped) as stopped:
        run_training(base(), display=quiet)
    assert stopped.value.step == 3


def test_resume_without_a_checkpoint_walks_from_the_start(base, tmp_path, quiet):
    run_training(base("whole"), display=quiet)
    run_training(base("cut", checkpoint_every=5), display=quiet)
    (tmp_path / "cut" / "checkpoint.pt").unlink()
    run_training(resume=tmp_path / "cut", display=quiet)
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")


def test_replayed_steps_run_no_forward(base, tmp_path, quiet, monkeypatch):
    run_training(base(), display=quiet)
    before = weights(tmp_path / "run")
    (tmp_path / "run" / "checkpoint.pt").unlink()

    def never(*args):
        raise AssertionError("a forward ran")

    monkeypatch.setattr("zokern.app.models.MLPClassifier.forward", never)
    run_training(resume=tmp_path / "run", display=quiet)
    assert all(torch.equal(before[n], w) for n, w in weights(tmp_path / "run").items())


def test_resume_with_more_steps_is_the_longer_run(base, tmp_path, quiet):
    more = {"lr_schedule": "constant"}
    run_training(base("long", steps=20, **more), display=quiet)
    run_training(base("short", steps=10, **more), display=quiet)
    run_training(resume=tmp_path / "short", steps=20, display=quiet)
    assert_same_weights(tmp_path / "long", tmp_path / "short")


def test_resume_cannot_change_the_horizon_of_a_schedule(base, tmp_path, quiet):
    run_training(base(), display=quiet)  # digits default: linear
    with pytest.raises(UserError, match="--steps cannot change on resume"):
        run_training(resume=tmp_path / "run", steps=30, display=quiet)


def test_resume_refuses_another_model(base, tmp_path, quiet):
    run_training(base(), display=quiet)
    as_version_1(tmp_path / "run")  # config.json of later ones is sealed
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    config["options"]["seed"] = 5  # other initial weights
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="fingerprint"):
        run_training(resume=tmp_path / "run", display=quiet)


def test_log_of_another_method_is_refused(base, tmp_path, quiet):
    run_training(base(), display=quiet)
    (tmp_path / "run" / "checkpoint.pt").unlink()
    as_version_1(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    config["options"]["num_queries"] = 3  # needs six losses a step, the log has four
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"steps\.jsonl does not fit this run at step 1"):
        run_training(resume=tmp_path / "run", display=quiet)


def test_loss_that_stays_infinite_ends_the_run(base, quiet, monkeypatch):
    def broken(optimizer, closures, progress):
        return optimizer.step(lambda: closures.batch() * math.nan)

    monkeypatch.setitem(METHODS, "mezo", Method("mezo", "x", METHODS["mezo"].build, step=broken))
    with pytest.raises(
        UserError,
        match=r"No update was finite in 20 steps in a row, up to step 20.*losses are not finite.*--lr 0\.03",
    ):
        run_training(base(steps=50), display=quiet)


def test_a_new_method_is_one_entry(base, quiet, monkeypatch):
    from zokern.optim import MeZO

    seen = []

    def step(optimizer, closures, progress):
        seen.append((progress.step, progress.epoch, closures.full()))
        return optimizer.step(closures.batch)

    method = Method("mine", "x", lambda model, o: MeZO(model, lr=o.lr, seed=o.seed), step=step)
    monkeypatch.setitem(METHODS, "mine", method)
    run_training(base(method="mine", steps=30, train_size=200), display=quiet)
    assert [s for s, _, _ in seen] == list(range(30))
    assert seen[-1][1] == 29 * 64 // 200
    assert all(math.isfinite(loss) for _, _, loss in seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "--lr must be positive, got -1.0"),
        ({"lr": math.nan}, "--lr must be positive, got nan"),
        ({"eps": 0.0}, "--eps must be positive, got 0.0"),
        ({"dtype": "fp8"}, "--dtype must be one of fp32, bf16, fp16, got 'fp8'"),
        ({"steps": 0}, "--steps must be positive, got 0"),
        ({"weight_decay": -0.1}, "--weight-decay must not be negative, got -0.1"),
        ({"momentum": 1.0}, "--momentum must be below 1, got 1.0"),
        ({"seed": -1}, "--seed must be in"),
        ({"seed": 1 << 64}, "--seed must be in"),
        ({"batch_size": 100_000}, "--batch-size 100000 is more than the 1437"),
        ({"method": "adam"}, "Unknown method 'adam'; known: mezo"),
        ({"tuning": "suffix"}, "Unknown tuning 'suffix'"),
        ({"tuning": "prefix"}, "--tuning prefix needs a causal language model"),
        ({"device": "warp"}, "--device warp cannot be used"),
        ({"restore": "never"}, "--restore must be one of"),
        ({"train_modules": ("x",), "tuning": "full"}, "drop --tuning full"),
    ],
)
def test_bad_options_are_named_and_nothing_is_written(base, tmp_path, quiet, options, message):
    with pytest.raises(UserError, match=message):
        run_training(base(**options), display=quiet)
    assert not (tmp_path / "run").exists()


def test_batches_cover_each_epoch_once():
    n, size = 37, 5
    seen = [i for step in range(37) for i in batch_indices(3, step, size, n)]
    for epoch in range(size):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))
    assert batch_indices(3, 7, size, n) == seen[35:40]
    assert batch_indices(4, 7, size, n) != seen[35:40]


def test_batches_by_length_hold_the_same_examples_in_even_batches():
    lengths = [(17 * i) % 101 for i in range(400)]
    length = lengths.__getitem__
    plain = [i for step in range(16) for i in batch_indices(0, step, 8, 400)]
    batches = [batch_indices(0, step, 8, 400, length) for step in range(16)]
    assert sorted(i for batch in batches for i in batch) == sorted(plain)
    spread = max(max(map(length, b)) - min(map(length, b)) for b in batches)
    assert spread < 25
    assert sorted(batches, key=lambda b: length(b[0])) != batches  # not easy to hard


def test_full_sample_is_fixed_and_without_repetition():
    sample = full_sample(1, 20, 50)
    assert len(set(sample)) == 20
    assert sample == full_sample(1, 20, 50) != full_sample(2, 20, 50)
    assert sorted(full_sample(1, 99, 50)) == list(range(50))


def test_learning_rate_factors():
    assert [lr_factor("constant", s, 10, 0) for s in (0, 9)] == [1.0, 1.0]
    assert [lr_factor("linear", s, 10, 0) for s in (0, 5)] == [1.0, 0.5]
    assert lr_factor("cosine", 5, 10, 0) == pytest.approx(0.5)
    assert [lr_factor("linear", s, 10, 3) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
