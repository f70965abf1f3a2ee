"""`zokern compare`: its baselines, and the numbers of its table and figure."""

from __future__ import annotations

import pytest
import torch

from zokern.app.compare.baselines import BASELINES, Setting
from zokern.app.compare.figure import mean_curve, spread
from zokern.app.compare.table import aggregate
from zokern.app.models import load_classifier
from zokern.app.tasks import UserError

from .conftest import WORDS, tiny_task

# ---- baselines


def setting(display, **more):
    return Setting(
        **{"batch_size": 4, "eval_batch_size": 8, "shots": 4, "seed": 0, "display": display, **more}
    )


def test_icl_shows_balanced_examples_before_every_prompt(model_folder, quiet):
    task = tiny_task(prompt="said : {text}")  # the tiny models read 128 tokens
    model = load_classifier(str(model_folder("llama")), task)
    before = BASELINES["zero-shot"](model, task, setting(quiet)).logits
    outcome = BASELINES["icl"](model, task, setting(quiet))
    assert outcome.logits.shape == before.shape and not torch.allclose(outcome.logits, before)
    assert outcome.forwards == outcome.trained == 0
    text = model.text(task.test[0], None)
    shown = [line for line in text.splitlines() if line.startswith("It was ")]
    assert sorted(shown) == [f"It was {word}" for word in (WORDS[1], WORDS[1], WORDS[0], WORDS[0])]
    assert text.endswith("\nIt was") and task.test[0].fields["text"] in text
    assert text.count("said : ") == 5


def test_icl_shows_what_there_is_when_a_class_is_of_test_rows_only(model_folder, quiet):
    words = (*WORDS, "film")
    task = tiny_task(prompt="said : {text}", labels=("negative", "positive", "odd"), label_words=words)
    model = load_classifier(str(model_folder("llama")), task)
    assert BASELINES["icl"](model, task, setting(quiet)).logits.shape == (24, 3)
    shown = [line for line in model.text(task.test[0], None).splitlines() if line.startswith("It was ")]
    assert sorted(shown) == [f"It was {word}" for word in (WORDS[1], WORDS[1], WORDS[0], WORDS[0])]


def test_icl_says_when_the_model_cannot_read_that_much(model_folder, task, quiet):
    model = load_classifier(str(model_folder("llama")), task)
    with pytest.raises(UserError, match=r"40 examples make prompts of .* more than the 128 that the model"):
        BASELINES["icl"](model, task, setting(quiet, shots=40))
    masked = load_classifier(str(model_folder("bert")), task)
    with pytest.raises(UserError, match="needs a causal language model"):
        BASELINES["icl"](masked, task, setting(quiet))


@pytest.mark.parametrize(("family", "scoring"), [("llama", "auto"), ("bert", "auto"), ("roberta", "head")])
def test_linear_probe_reads_what_the_last_layer_sees(family, scoring, model_folder, task, quiet):
    model = load_classifier(str(model_folder(family)), task, scoring=scoring)
    batch, _ = model.collate(task, "test", range(4))
    with torch.no_grad():
        features, logits = model.features(batch), model(batch)
    assert features.shape == (4, 32)
    if scoring == "auto" and family == "llama":  # the very states that the label words are scored with
        words = model.lm.get_output_embeddings().weight[model.label_ids]
        torch.testing.assert_close(features @ words.T, logits)
    outcome = BASELINES["linear-probe"](model, task, setting(quiet))
    assert outcome.logits.shape == (24, 2) and outcome.forwards == 48 / 4
    again = BASELINES["linear-probe"](model, task, setting(quiet, eval_batch_size=5))
    torch.testing.assert_close(again.logits, outcome.logits, atol=1e-2, rtol=1e-2)


# ---- numbers of the table and the figure


def test_aggregate_leaves_failed_seeds_out_and_says_so():
    run = {"loss": 1.0, "seconds": 2.0, "forward_passes": 8, "trainable_parameters": 3}
    rows = [
        {"run": "a", "accuracy": 0.5, "calibrated_accuracy": 0.5, "peak_memory_bytes": 5, **run},
        {"run": "a", "accuracy": 0.7, "calibrated_accuracy": 0.6, "peak_memory_bytes": 9, **run},
        {"run": "a", "failed": "no memory"},
    ]
    (line,) = aggregate(rows)
    assert line["accuracy"] == pytest.approx(0.6)
    assert line["accuracy_std"] == pytest.approx(0.2 / 2**0.5)  # of a sample: n - 1
    assert (line["seeds"], line["asked"], line["failed"]) == (2, 3, "no memory")
    assert line["peak_memory_bytes"] == 9


def test_curves_are_means_and_labels_do_not_touch():
    rows = [{"curve": [[2, 0.5, 30], [4, 0.7, 60]]}, {"curve": [[2, 0.7, 30], [4, 0.7, 60]]}]
    assert mean_curve(rows) == [(2, pytest.approx(0.6), pytest.approx(0.1 * 2**0.5)), (4, 0.7, 0.0)]
    heights = [0.5, 0.51, 0.9, 0.505, 0.1]
    moved = spread(heights, 0.05)
    assert sorted(range(5), key=moved.__getitem__) == sorted(range(5), key=heights.__getitem__)
    ordered = sorted(moved)
    assert all(b - a >= 0.05 - 1e-9 for a, b in zip(ordered, ordered[1:]))
    assert moved[2] == 0.9 and moved[4] == 0.1  # those with room stay
