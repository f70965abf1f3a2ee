"""What a run takes where the user gives nothing, from its task, model, method and tuning."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from zokern.app.methods import METHODS
from zokern.app.methods.rates import SHORT_RUNS, USUAL, eps_of
from zokern.app.options import TrainOptions
from zokern.app.tasks import Task, UserError

__all__ = ["MODEL_TUNINGS", "default_options", "default_tuning", "resolve"]

MODEL_TUNINGS = {"mlp": "full", "minilm": "head"}
"""The tuning of models that none of the methods' own fits."""


def default_tuning(method: str, model: str) -> str:
    """The tuning of a method and model."""
    return MODEL_TUNINGS.get(model, METHODS[method].tuning)


def default_options(task: str, model: str, method: str, tuning: str) -> dict[str, Any]:
    """Options by name, for those that are None; one that the method does not read stays out.

    Args:
        task, model, method, tuning: names, as given on the command line.
    """
    chosen = METHODS[method]
    options = {
        **USUAL,
        **SHORT_RUNS.get((task, model, tuning), {}),
        "lr": chosen.rates.at(task, model, tuning),
        "eps": eps_of(tuning),
        "weight_decay": chosen.weight_decay,
    }
    for name in ("eps", "num_queries"):
        if not chosen.takes(name):
            del options[name]
    return options


def resolve(options: TrainOptions, task: Task) -> TrainOptions:
    """A copy with every None that has a default filled in from task, method and tuning.

    Raises:
        UserError: the batch is larger than the training set.
    """
    done = dataclasses.replace(options)
    done.model = done.model or task.default_model
    if done.tuning is None:
        usual = default_tuning(done.method, done.model)
        done.tuning = "modules" if done.train_modules else usual
    method = METHODS[done.method]
    defaults = default_options(task.name, done.model, done.method, done.tuning)
    defaults.update(task.defaults)
    if method.scheduled or done.query_schedule:
        defaults.pop("num_queries", None)  # None: the schedule
    _fill(done, defaults)
    _fill(done, method.defaults(done))
    done.train_size = min(done.train_size or task.train_length, task.train_length)
    assert done.batch_size is not None  # filled in above
    if done.batch_size > done.train_size:
        raise UserError(
            f"--batch-size {done.batch_size} is more than the {done.train_size} training examples."
        )
    if done.device == "auto":
        done.device = "cuda" if torch.cuda.is_available() else "cpu"
    return done


def _fill(options: TrainOptions, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
