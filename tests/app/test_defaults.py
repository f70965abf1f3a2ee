"""What a run takes where nothing is said: known answers for every method, tuning, task and model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zokern.app.defaults import default_options, resolve
from zokern.app.methods import METHODS
from zokern.app.options import TrainOptions
from zokern.app.tasks import Task
from zokern.app.tuning import TUNINGS

# method -> tuning ("": none given) -> "TASK MODEL" -> options; those of "" hold where nothing else is said
KNOWN = json.loads((Path(__file__).parents[1] / "known_answers" / "defaults.json").read_text())
ELSEWHERE = "elsewhere"
PLACES = [
    (task, model)
    for task in ("mr", "reuters", "digits", ELSEWHERE)
    for model in ("smollm2", "minilm", "mlp", ELSEWHERE)
]


class Large(Task):
    """A task that no batch is too large for."""

    train_length = 10_000


def filled(method: str, tuning: str | None, task: str, model: str, names: Any) -> dict[str, Any]:
    options = TrainOptions(task=task, model=model, method=method, tuning=tuning)
    done = resolve(options, Large(task, ("a", "b"), "made up"))
    return {name: getattr(done, name) for name in names}


def test_every_method_and_tuning_has_answers():
    assert KNOWN.keys() == METHODS.keys()
    assert all(answers.keys() == {"", *TUNINGS, "another"} for answers in KNOWN.values())


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_those_of_known_answers(method):
    for tuning, answers in KNOWN[method].items():
        for task, model in PLACES:
            expected = {**answers[""], **answers.get(f"{task} {model}", {})}
            found = filled(method, tuning or None, task, model, expected)
            assert found == expected, (tuning, task, model)


@pytest.mark.parametrize("method", METHODS)
def test_an_option_that_the_method_does_not_read_has_no_default(method):
    given = default_options("mr", "smollm2", method, "lora")
    unread = {name for name in ("eps", "num_queries") if not METHODS[method].takes(name)}
    assert not unread & given.keys()


def test_what_is_given_stays(method="mezo-svrg"):
    options = TrainOptions(method=method, lr=0.5, steps=3, weight_decay=0.1)
    done = resolve(options, Large("mr", ("a", "b"), "made up"))
    assert (done.lr, done.steps, done.weight_decay) == (0.5, 3, 0.1)
    assert done.lr_minibatch == 0.3 * 0.5  # a share of the rate that was given
    assert options.model is None  # a copy was filled in
