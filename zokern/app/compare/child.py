"""One run of a comparison, in a process of its own: its peak memory is then its own too.

`main(FOLDER)` reads cell.json there and leaves result.json. A run that was
interrupted is continued. When the parent is gone the run ends as on Ctrl-C.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch

from zokern.app.compare.baselines import BASELINES, Setting
from zokern.app.tasks import UserError, evaluate_logits
from zokern.app.training import Display, Stopped, TrainOptions, run_training, terminate_as_interrupt
from zokern.app.training.folder import CONFIG, METRICS, WEIGHTS, Folder
from zokern.app.training.memory import peak_memory, reset_peak_memory
from zokern.app.training.run import load_model, load_run_task

__all__ = ["CELL", "RESULT", "TRAIN", "run_cell"]

CELL = "cell.json"
RESULT = "result.json"
TRAIN = "run"


def run_cell(folder: Path, display: Display) -> dict[str, Any]:
    """Runs what cell.json says, or what is left of it; writes and returns the result."""
    cell = json.loads((folder / CELL).read_text())
    options = TrainOptions.from_dict(cell["options"])
    options.out = str(folder / TRAIN)
    if cell["method"] in BASELINES:
        result = _baseline(cell, options, display)
    else:
        result = _trained(cell, options, display)
    Folder(folder).write_json(RESULT, result, sealed=True)
    return result


def _baseline(cell: dict[str, Any], options: TrainOptions, display: Display) -> dict[str, Any]:
    task = load_run_task(options, display)
    model = load_model(options, task, display)
    model.requires_grad_(False)
    model.prepare(task)
    assert options.batch_size is not None  # resolved
    setting = Setting(options.batch_size, options.eval_batch_size, cell["shots"], options.seed, display)
    device = torch.device(options.device)
    reset_peak_memory(device)
    outcome = BASELINES[cell["method"]](model, task, setting)
    evaluation = evaluate_logits(outcome.logits, torch.tensor(task.test_labels))
    return {
        **_of(evaluation.as_dict()),
        "forward_passes": outcome.forwards,
        "seconds": outcome.seconds,
        "peak_memory_bytes": peak_memory(device),
        "trainable_parameters": outcome.trained,
        "steps": 0,
        "curve": [],
    }


def _trained(cell: dict[str, Any], options: TrainOptions, display: Display) -> dict[str, Any]:
    assert options.out is not None
    folder = Path(options.out)
    if (folder / CONFIG).exists():
        summary = run_training(resume=folder, display=display)
    else:
        summary = run_training(options, overwrite=True, display=display)
    after = summary["after"]
    result = {
        **_of(after),
        "forward_passes": summary["forward_passes"],
        "seconds": summary["train_seconds"],
        "peak_memory_bytes": summary["peak_memory_bytes"],
        "trainable_parameters": summary["trainable_parameters"],
        "steps": summary["steps"],
        "curve": _curve(folder / METRICS),
    }
    if not cell["keep_weights"]:
        shutil.rmtree(folder / WEIGHTS, ignore_errors=True)
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    return result


def _of(evaluation: dict[str, Any]) -> dict[str, Any]:
    return {name: evaluation[name] for name in ("accuracy", "calibrated_accuracy", "loss", "examples")}


def _curve(path: Path) -> list[list[float]]:
    """[forward passes, accuracy, test examples] of each test."""
    points, used = [], 0.0
    rows = sorted(
        map(json.loads, path.read_text().splitlines()), key=lambda r: (r["step"], r["kind"] == "eval")
    )
    for row in rows:
        if row["kind"] == "step":
            used += row["forwards"]
        else:
            points.append([used, row["accuracy"], row["examples"]])
    return points


def _end_with(parent: int) -> None:
    """Interrupts this process when its parent is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main(path: str) -> int:
    """Runs the cell in a folder; returns the exit code of the process."""
    folder = Path(path)
    _end_with(os.getppid())
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a run whose parent was killed may still be ending
        try:
            with terminate_as_interrupt():
                run_cell(folder, Display())
        except UserError as error:
            Folder(folder).write_json(RESULT, {"failed": str(error)})
        except (Stopped, KeyboardInterrupt):
            return 130
    return 0
