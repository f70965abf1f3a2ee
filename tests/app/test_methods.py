"""Every method of the registry in `zokern train`: it runs, counts its forwards, resumes bit for bit, and
refuses options that it does not read."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from zokern.app.defaults import resolve
from zokern.app.methods import FIRST_ORDER_STEP
from zokern.app.models import load_classifier
from zokern.app.tasks import UserError, load_task
from zokern.app.training import METHODS, Method, Stopped, TrainOptions, run_training

FIRST_ORDER = ("fo-adamw", "fo-sgd")
MORE = {
    "mezo-svrg": {"interval": 3, "full_batch_size": 24},
    "zo-svrg": {"interval": 3, "full_batch_size": 12, "num_queries": None},
    "sparse-mezo": {"mask_refresh": 2, "blocks": 1},
    "zo-adamu": {"orient_momentum": True},
}


@pytest.fixture(autouse=True)
def _no_curve(monkeypatch):
    """Drawing takes longer than these runs."""
    monkeypatch.setattr("zokern.app.plots.learning_curve", lambda *args, **kwargs: None)


@pytest.fixture
def base(tmp_path):
    """Options of a digits run of some method: eleven steps, checkpoints after 4, 8 and 11."""

    def options(method, name="run", **more):
        values = {"steps": 11, "batch_size": 8, "checkpoint_every": 4, "eval_every": 3, "test_size": 40}
        if method not in FIRST_ORDER:
            values["num_queries"] = 2
        values.update(MORE.get(method, {}))
        return TrainOptions(task="digits", method=method, out=str(tmp_path / name), **{**values, **more})

    return options


def rows(folder, kind):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def weights(folder):
    return load_file(folder / "weights" / "model.safetensors")


def assert_same_run(one, two):
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert (one / "steps.jsonl").read_bytes() == (two / "steps.jsonl").read_bytes()
    assert rows(one, "eval") == rows(two, "eval")
    shown = [
        [{**row, "seconds": 0, "seconds_outside_forward": 0, "check": ""} for row in rows(f, "step")]
        for f in (one, two)
    ]
    assert shown[0] == shown[1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("at", [3, 6])
def test_interrupted_and_resumed_is_uninterrupted(method, at, base, tmp_path, quiet, monkeypatch):
    """Stopped in the middle of a step, before and after the first checkpoint."""
    run_training(base(method, "whole"), display=quiet)
    real = METHODS[method]

    def step(optimizer, closures, progress):
        if progress.step < at:
            return real.step(optimizer, closures, progress)

        def interrupted(*arguments):
            closures.batch()
            raise KeyboardInterrupt

        broken = {f.name: interrupted for f in dataclasses.fields(closures)}
        return real.step(optimizer, dataclasses.replace(closures, **broken), progress)

    with monkeypatch.context() as patch:
        patch.setitem(METHODS, method, dataclasses.replace(real, step=step))
        with pytest.raises(Stopped) as stopped:
            run_training(base(method, "cut"), display=quiet)
    assert stopped.value.step == at
    run_training(resume=tmp_path / "cut", display=quiet)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("method", [name for name in METHODS if name not in FIRST_ORDER])
def test_the_log_alone_rebuilds_the_run(method, base, tmp_path, quiet, monkeypatch):
    run_training(base(method), display=quiet)
    before = weights(tmp_path / "run")
    (tmp_path / "run" / "checkpoint.pt").unlink()

    def never(*args):
        raise AssertionError("a forward ran")

    monkeypatch.setattr("zokern.app.models.MLPClassifier.forward", never)
    run_training(resume=tmp_path / "run", display=quiet)
    assert all(torch.equal(before[n], w) for n, w in weights(tmp_path / "run").items())


def test_first_order_without_a_checkpoint_starts_again(base, tmp_path, quiet):
    run_training(base("fo-adamw", "whole"), display=quiet)
    run_training(base("fo-adamw", "cut"), display=quiet)
    (tmp_path / "cut" / "checkpoint.pt").unlink()
    run_training(resume=tmp_path / "cut", display=quiet)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("method", METHODS)
def test_forwards_are_as_planned(method, base, tmp_path, quiet):
    options = base(method, num_queries=2 if method not in (*FIRST_ORDER, "zo-svrg") else None)
    summary = run_training(options, display=quiet)
    resolved = resolve(options, load_task("digits"))
    planned = [METHODS[method].forwards(resolved, step) for step in range(11)]
    assert [row["forwards"] for row in rows(tmp_path / "run", "step")] == pytest.approx(planned)
    assert summary["forward_passes"] == pytest.approx(sum(planned))


def test_forwards_count_examples_not_calls(base, tmp_path, quiet):
    """interval 3, full batch 24 = 3 batches of 8, two queries: 12 forwards, then 8 and 8."""
    run_training(base("mezo-svrg"), display=quiet)
    assert [row["forwards"] for row in rows(tmp_path / "run", "step")][:4] == [12, 8, 8, 12]
    assert FIRST_ORDER_STEP == 3


def test_full_batch_runs_in_parts_and_is_their_mean(base, tmp_path, quiet, monkeypatch):
    """24 examples in parts of 10, 10 and 4: no forward is larger, and the loss is that of all 24."""
    from zokern.app.data import full_sample

    sizes, seen = [], []
    real = METHODS["mezo-svrg"]

    def step(optimizer, closures, progress):
        if progress.step == 0:
            seen.append(closures.full())
        return real.step(optimizer, closures, progress)

    monkeypatch.setitem(METHODS, "mezo-svrg", dataclasses.replace(real, step=step))
    task = load_task("digits")
    model = load_classifier(None, task)
    batch, labels = model.collate(task, "train", full_sample(0, 24, task.train_length))
    with torch.no_grad():
        whole = torch.nn.functional.cross_entropy(model(batch), labels).item()
    forward = type(model).forward

    def counted(self, batch):
        sizes.append(len(batch["x"]))
        return forward(self, batch)

    monkeypatch.setattr(type(model), "forward", counted)
    run_training(base("mezo-svrg", eval_batch_size=10), display=quiet)
    assert seen[0] == pytest.approx(whole, abs=1e-6)
    assert max(sizes) == 10


@pytest.mark.parametrize("method", METHODS)
def test_learns_digits_with_its_default_rate(method, base, quiet):
    """A loss of 2.33 falls in some hundred forwards, before the default run of 1,500 steps is over."""
    more = {"steps": 150, "batch_size": 64, "eval_every": 0, "checkpoint_every": 500, "test_size": 360}
    if method == "zo-svrg":
        more.update(full_batch_size=64, batch_size=8, steps=60)
    elif method == "mezo-svrg":
        more.update(full_batch_size=128)
    elif method == "sparse-mezo":
        more.update(blocks=None)
    elif method == "zo-adamu":
        more.update(orient_momentum=False)
    if method not in (*FIRST_ORDER, "zo-svrg"):
        more["num_queries"] = 4
    summary = run_training(base(method, **more), display=quiet)
    assert summary["after"]["loss"] < summary["before"]["loss"] - 0.02


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("zo-adam", {"momentum": 0.9}, "zo-adam does not read --momentum; drop it .it is for mezo, fo-sgd"),
        ("mezo", {"interval": 7}, "mezo does not read --interval; drop it .it is for mezo-svrg, zo-svrg"),
        ("mezo", {"betas": (0.5, 0.9)}, "mezo does not read --betas"),
        ("fo-adamw", {"eps": 1e-2}, "fo-adamw does not read --eps"),
        ("fo-sgd", {"restore": "exact"}, "fo-sgd does not read --restore"),
        ("zo-adamu", {"distribution": "rademacher"}, "zo-adamu does not read --distribution"),
        ("zo-svrg", {"num_queries": 3}, "zo-svrg does not read --num-queries"),
        ("adazeta", {"one_sided": True}, "adazeta does not read --one-sided"),
        ("mezo-svrg", {"interval": 0}, "--interval must be positive, got 0"),
        ("mezo-svrg", {"full_batch_size": 0}, "--full-batch-size must be positive, got 0"),
        ("mezo-svrg", {"anchor": "disk"}, "--anchor must be one of replay, copy, got 'disk'"),
        ("sparse-mezo", {"sparsity": 1.0}, r"--sparsity must be in \[0, 1\), got 1.0"),
        ("zo-adam", {"betas": (0.9, 1.0)}, "--betas must be two numbers in .*, got 0.9,1"),
        ("zo-adam", {"adam_eps": 0.0}, "--adam-eps must be positive, got 0.0"),
    ],
)
def test_bad_options_are_named_and_nothing_is_written(method, more, message, tmp_path, quiet):
    options = TrainOptions(task="digits", method=method, out=str(tmp_path / "run"), **more)
    with pytest.raises(UserError, match=message):
        run_training(options, display=quiet)
    assert not (tmp_path / "run").exists()


def test_every_option_of_some_methods_is_read_by_one():
    names = {field.name for field in dataclasses.fields(TrainOptions)}
    read = frozenset().union(*(method.reads for method in METHODS.values()))
    assert read <= names
    assert {"betas", "interval", "lr_minibatch", "sparsity", "orient_momentum", "blocks"} <= read


def test_a_method_of_ones_own_reads_everything(base, quiet, monkeypatch):
    from zokern.optim import MeZO

    monkeypatch.setitem(METHODS, "mine", Method("mine", "my own", lambda model, o: MeZO(model, lr=o.lr)))
    run_training(base("mine", momentum=0.5, interval=2), display=quiet)


def test_numbers_reach_the_run_from_the_command_line(cli, tmp_path):
    arguments = ("train", "--task", "digits", "--steps", 2, "--num-queries", 1, "--method", "zo-adam")
    result = cli(*arguments, "--betas", "0.8, 0.95", "--out", "out")
    assert result.exit_code == 0, result.output
    options = json.loads((tmp_path / "out" / "config.json").read_text())["options"]
    assert options["betas"] == [0.8, 0.95]
    result = cli(*arguments, "--betas", "0.8;0.95", "--out", "two")
    assert result.exit_code == 2
    assert "--betas must be numbers with commas between, got '0.8;0.95'" in result.stderr
