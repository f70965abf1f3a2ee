"""A run killed with SIGKILL and resumed ends with the weights of one that was left alone, bit for
bit: LoRA and full tuning of a small transformer, in fp32 and bf16, and from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from zokern.app.training import TrainOptions, run_training

from .conftest import WORDS

STEPS = 11
KILL_AT = {"lora-fp32": 7, "lora-bf16": 4, "full-fp32": 9, "full-bf16": 6}

# One process that imports everything once; each case is a fork of it, which trains and kills itself
# in the middle of a step's second evaluation, with half a line of the log written, as a kill
# between two writes would leave it.
PARENT = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from zokern.app.training import METHODS, Method, TrainOptions, run_training

def train(options, at):
    def step(optimizer, closures, progress):
        calls = []
        def closure():
            calls.append(0)
            if progress.step == at and len(calls) == 2:
                with open(options.out + "/steps.jsonl", "ab", buffering=0) as log:
                    log.write(b'{"step": ')
                os.kill(os.getpid(), signal.SIGKILL)
            return closures.batch()
        return optimizer.step(closure)

    METHODS["mezo"] = Method("mezo", "killed", METHODS["mezo"].build, step=step)
    run_training(options)

for values, at in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        train(TrainOptions.from_dict(values), at)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
"""


def options_for(case: str, model: Path, data: Path, out: Path) -> TrainOptions:
    tuning, dtype = case.split("-")
    return TrainOptions(
        task=str(data),
        model=str(model),
        label_words=WORDS,
        prompt="the film review was as follows and it said : {text}",
        answer="It was",
        tuning=tuning,
        dtype=dtype,
        lr=1e-3,
        eps=1e-2,
        steps=STEPS,
        batch_size=4,
        eval_every=3,
        checkpoint_every=5,
        seed=3,
        out=str(out),
    )


@pytest.fixture(scope="module")
def killed(model_folder, data_folder, tmp_path_factory):
    """The folders of four killed runs."""
    root = tmp_path_factory.mktemp("killed")
    jobs = [
        (options_for(case, model_folder("llama"), data_folder, root / case).as_dict(), at)
        for case, at in KILL_AT.items()
    ]
    result = subprocess.run(
        [sys.executable, "-c", PARENT, json.dumps(jobs)],
        env=dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return root


def weight_files(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = (folder / "weights").glob("*.safetensors")
    return load_file(path)


@pytest.mark.parametrize("case", KILL_AT)
def test_killed_and_resumed_is_uninterrupted(case, killed, model_folder, data_folder, tmp_path, quiet):
    log = (killed / case / "steps.jsonl").read_bytes()
    assert log.count(b"\n") == 1 + KILL_AT[case] and log.endswith(b'{"step": ')
    run_training(resume=killed / case, display=quiet)
    whole = options_for(case, model_folder("llama"), data_folder, tmp_path / "whole")
    run_training(whole, display=quiet)
    resumed, expected = weight_files(killed / case), weight_files(tmp_path / "whole")
    assert resumed.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(resumed[name], tensor), name
    logs = [folder / "steps.jsonl" for folder in (killed / case, tmp_path / "whole")]
    assert logs[0].read_bytes() == logs[1].read_bytes()
    evaluations = []
    for folder in (killed / case, tmp_path / "whole"):
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        evaluations.append([line for line in lines if line["kind"] == "eval"])
    assert evaluations[0] == evaluations[1]
    assert [line["step"] for line in evaluations[0]] == [0, 3, 6, 9, 11]


def test_ctrl_c_on_the_command_line(tmp_path):
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(sys.path))
    out = tmp_path / "out"
    train = [sys.executable, "-m", "zokern", "train"]
    child = subprocess.Popen(
        [*train, "--task", "digits", "--steps", "1000000", "--out", str(out)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = out / "steps.jsonl"
    try:
        while child.poll() is None and not (log.exists() and log.stat().st_size > 3000):
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130, errors
    steps = log.read_bytes().count(b"\n") - 1  # the first line seals the options
    assert f"stopped after step {steps};" in errors
    assert f"zokern train --resume {out}" in errors
    assert "Traceback" not in errors
    assert (out / "learning_curve.png").exists()
