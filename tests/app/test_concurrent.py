"""Two processes on one folder, folders that are moved or copied under a run, full disks, folders that cannot be
written."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from zokern.app.compare import CompareOptions, run_comparison
from zokern.app.tasks import UserError
from zokern.app.training import METHODS, Method, Stopped, TrainOptions, run_training
from zokern.app.training.lock import FolderLock

from .test_damage import same, weights

HOLDER = """
import sys, time
from pathlib import Path
from zokern.app.training.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.take()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def hold():
    """Has another process take the lock of a folder; returns the process."""
    started = []

    def start(folder):
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
        command = [sys.executable, "-c", HOLDER, str(folder)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(autouse=True)
def _no_curve(monkeypatch):
    monkeypatch.setattr("zokern.app.plots.learning_curve", lambda *args, **kwargs: None)


@pytest.fixture
def base(tmp_path):
    def options(name="run", **more):
        values = {"steps": 6, "checkpoint_every": 2, "test_size": 20, "batch_size": 8, "train_size": 64}
        return TrainOptions(task="digits", out=str(tmp_path / name), **{**values, **more})

    return options


def test_a_second_process_is_told_who_has_the_folder(base, tmp_path, quiet, hold):
    run_training(base(), display=quiet)
    holder = hold(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    who = rf"run is in use by process {holder.pid} on {re.escape(os.uname().nodename)}, since \d{{4}}-\d\d-\d\d \d\d:"
    with pytest.raises(UserError, match=who):
        run_training(resume=tmp_path / "run", display=quiet)
    with pytest.raises(UserError, match=who):
        run_training(base(), display=quiet)
    with pytest.raises(UserError, match=who):
        run_training(base(), overwrite=True, display=quiet)
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert after == before
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    run_training(resume=tmp_path / "run", display=quiet)  # the kernel gave the lock back
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_second_comparison_is_told_too(tmp_path, quiet, hold):
    out = tmp_path / "out"
    out.mkdir()
    holder = hold(out)
    options = CompareOptions(task="digits", runs="mezo:full", seeds=1, forwards=8)
    for more in ({"out": out}, {"out": out, "overwrite": True}):
        with pytest.raises(UserError, match=rf"out is in use by process {holder.pid} on "):
            run_comparison(options, display=quiet, **more)
    (out / "compare.json").write_text(json.dumps({"task": "digits"}))
    with pytest.raises(UserError, match=rf"out is in use by process {holder.pid} on "):
        run_comparison(resume=out, display=quiet)


def test_two_commands_at_once(tmp_path):
    """Both resume one run: one goes on, the other ends with a sentence; the log stays readable."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(sys.path))
    run_training(
        TrainOptions(task="digits", steps=3, lr_schedule="constant", out=str(tmp_path / "run")),
    )
    command = [sys.executable, "-m", "zokern", "train", "--resume", str(tmp_path / "run"), "--steps"]
    both = [
        subprocess.Popen(
            [*command, "400"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], errors
    loser = both[codes.index(2)]
    winner = both[codes.index(0)]
    assert f"is in use by process {winner.pid} on" in errors[both.index(loser)]
    steps = [
        json.loads(line).get("step") for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()
    ]
    assert [step for step in steps if step is not None] == list(range(1, 401))


def test_a_lock_is_taken_over_with_its_file(tmp_path):
    """Its file is taken away by the holder while another has it open."""
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.take()
    with pytest.raises(UserError, match=f"process {os.getpid()} on"):
        second.take()
    first.release()
    second.take()
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    first.release()  # holds nothing
    assert (tmp_path / ".lock").exists()
    second.release()
    assert not list(tmp_path.iterdir())


def test_an_error_gives_the_lock_back(base, tmp_path, quiet, monkeypatch):
    def step(optimizer, closures, progress):
        if progress.step == 3:
            raise UserError("an error")
        return optimizer.step(closures.batch)

    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "mezo", Method("mezo", "x", METHODS["mezo"].build, step=step))
        with pytest.raises(UserError, match="an error") as kept:
            run_training(base(), display=quiet)
    assert not (tmp_path / "run" / ".lock").exists() and kept
    run_training(resume=tmp_path / "run", display=quiet)


def test_a_file_system_without_locks_has_none(base, quiet, monkeypatch):
    def none(file, how):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("zokern.app.training.lock.fcntl.flock", none)
    run_training(base(), display=quiet)


def interrupted_at(step, monkeypatch, base, quiet, during=lambda: None):
    def run(optimizer, closures, progress):
        if progress.step == step:
            during()
            raise KeyboardInterrupt
        return optimizer.step(closures.batch)

    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "mezo", Method("mezo", "x", METHODS["mezo"].build, step=run))
        with pytest.raises(Stopped):
            run_training(base("cut"), display=quiet)


def test_a_copy_of_a_running_run_is_resumed_elsewhere(base, tmp_path, quiet, monkeypatch):
    run_training(base("whole"), display=quiet)
    copy = tmp_path / "elsewhere" / "copy"
    interrupted_at(5, monkeypatch, base, quiet, lambda: shutil.copytree(tmp_path / "cut", copy))
    run_training(resume=copy, display=quiet)
    run_training(resume=tmp_path / "cut", display=quiet)
    assert same(weights(copy), weights(tmp_path / "whole"))
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


def test_a_run_whose_folder_is_moved_ends_with_a_sentence(base, tmp_path, quiet, monkeypatch):
    run_training(base("whole"), display=quiet)

    def step(optimizer, closures, progress):
        if progress.step == 4:
            (tmp_path / "cut").rename(tmp_path / "moved")
        return optimizer.step(closures.batch)

    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "mezo", Method("mezo", "x", METHODS["mezo"].build, step=step))
        with pytest.raises(UserError, match=r"Failed writing .*No such file or directory"):
            run_training(base("cut"), display=quiet)
    run_training(resume=tmp_path / "moved", display=quiet)
    assert same(weights(tmp_path / "moved"), weights(tmp_path / "whole"))


def test_the_clock_may_be_set_back(base, tmp_path, quiet, monkeypatch):
    run_training(base("whole"), display=quiet)
    interrupted_at(3, monkeypatch, base, quiet)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    run_training(resume=tmp_path / "cut", display=quiet)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("name", [".lock", "steps.jsonl", "metrics.jsonl", "checkpoint.pt", "config.json"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_file_that_cannot_be_written_is_a_sentence(base, tmp_path, quiet, monkeypatch, name, number):
    """A read-only folder, a read-only or full disk, whichever file notices first."""
    import builtins

    real = open

    def refuse(path, mode="r", *args, **kwargs):
        if isinstance(path, os.PathLike) and name in os.fspath(path) and set(mode) & set("wa+"):
            raise OSError(number, os.strerror(number), os.fspath(path))
        return real(path, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(
        UserError, match=r"(No permission|The disk is full): failed (locking|writing|opening) \S*run"
    ):
        run_training(base(), display=quiet)
    monkeypatch.undo()
    monkeypatch.setattr("zokern.app.plots.learning_curve", lambda *args, **kwargs: None)
    run_training(base(), overwrite=True, display=quiet)  # what was left is in nobody's way
