"""Prompt-free classification, the packaged sentence encoder's pooling, and the MLP."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers

from zokern.app.models import HeadClassifier, PooledClassifier, load_classifier
from zokern.app.tasks import Example, UserError, load_task

from .conftest import FAMILIES, MASKED, tiny_task


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_change_logits(family, model_folder, task):
    model = load_classifier(str(model_folder(family)), task, scoring="head")
    assert isinstance(model, HeadClassifier)
    with torch.no_grad():
        together = model(model.collate(task, "test", range(6))[0])
        alone = [model(model.collate(task, "test", [i])[0])[0] for i in range(6)]
    assert together.shape == (6, 2)
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_head_comes_from_the_seed_and_leaves_global_state(family, model_folder, task):
    before = torch.random.get_rng_state()
    weights = []
    for seed in (1, 1, 2):
        model = load_classifier(str(model_folder(family)), task, scoring="head", seed=seed)
        weights.append(torch.cat([p.flatten() for m in model.head_modules() for p in m.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_more_classes_than_the_checkpoint(model_folder):
    task = tiny_task(labels=("a", "b", "c"), label_words=())
    model = load_classifier(str(model_folder("bert")), task)
    with torch.no_grad():
        assert model(model.collate(task, "test", range(2))[0]).shape == (2, 3)


def test_pair_becomes_two_segments(model_folder):
    pair = Example({"premise": "the film was long", "hypothesis": "a bit short"}, 0)
    task = tiny_task(train=[pair], test=[pair])
    model = load_classifier(str(model_folder("bert")), task, scoring="head")
    batch, _ = model.collate(task, "test", [0])
    assert batch["token_type_ids"].unique().tolist() == [0, 1]


def test_long_text_is_truncated(model_folder):
    task = tiny_task(test=[Example({"text": "film " * 1000}, 0)])
    model = load_classifier(str(model_folder("roberta")), task, scoring="head")
    with torch.no_grad():  # 130 positions, of which RoBERTa can number 128
        assert model(model.collate(task, "test", [0])[0]).isfinite().all()


@pytest.fixture
def sentence_encoder(model_folder, tmp_path):
    """A BERT folder as sentence encoders are published: a pooling module beside it."""
    folder = tmp_path / "encoder"
    shutil.copytree(model_folder("bert"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertModel"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text(
        json.dumps([{"type": "x.models.Transformer"}, {"type": "x.models.Pooling"}])
    )
    return folder


def test_sentence_encoder_pools_the_mean_of_real_tokens(sentence_encoder, task):
    model = load_classifier(str(sentence_encoder), task)
    assert isinstance(model, PooledClassifier)
    with torch.no_grad():
        batch, _ = model.collate(task, "test", range(4))
        assert torch.equal(model(batch), torch.zeros(4, 2))  # the head starts at zero
        model.head.weight.copy_(torch.eye(2, 32))
        together = model(batch)
        lm = transformers.AutoModel.from_pretrained(sentence_encoder).eval()
        for i in range(4):
            one, _ = model.collate(task, "test", [i])
            mean = lm(**one).last_hidden_state[0].mean(0)
            expected = mean / mean.norm() * 32**0.5
            torch.testing.assert_close(together[i], expected[:2], rtol=1e-4, atol=1e-5)


def test_sentence_encoder_has_no_words_to_score(sentence_encoder, task):
    with pytest.raises(UserError, match="no language-model head"):
        load_classifier(str(sentence_encoder), task, scoring="label-words")


@pytest.mark.parametrize("family", MASKED)
def test_saved_model_loads_again_with_the_same_logits(family, model_folder, task, tmp_path):
    model = load_classifier(str(model_folder(family)), task, scoring="head")
    model.save(tmp_path / "out")
    again = load_classifier(str(tmp_path / "out"), task, scoring="head")
    with torch.no_grad():
        logits = [m(m.collate(task, "test", range(4))[0]) for m in (model, again)]
    torch.testing.assert_close(*logits)


def test_mlp_is_for_arrays_and_arrays_for_the_mlp(task):
    digits = load_task("digits")
    model = load_classifier(None, digits)
    x, y = model.collate(digits, "test", [3, 5])
    assert (x["x"].shape, y.tolist()) == ((2, 64), digits.test_y[[3, 5]].tolist())
    with pytest.raises(UserError, match="model is mlp"):
        load_classifier("smollm2", digits)
    with pytest.raises(UserError, match="cannot read text"):
        load_classifier("mlp", task)


def test_label_words_needed_for_prompting(model_folder):
    with pytest.raises(UserError, match="has no label words"):
        load_classifier(str(model_folder("gpt2")), tiny_task(label_words=()), scoring="label-words")


def test_models_that_cannot_be_had_are_sentences(task, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="Could not load a model from"):
        load_classifier(str(tmp_path / "empty"), task)

    def unreachable(*args, **kwargs):
        raise OSError("We couldn't connect to the hub to load the files")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(UserError, match="Could not reach the model hub for 'some/model'"):
        load_classifier("some/model", task)

    def absent(*args, **kwargs):
        raise OSError("nonsense is not a local folder and is not a valid model identifier")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", absent)
    with pytest.raises(UserError, match="Unknown model 'nonsense'"):
        load_classifier("nonsense", task)
