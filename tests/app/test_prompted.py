"""Label-word classification: three causal and three masked families through one class."""

from __future__ import annotations

import pytest
import torch
import transformers

import zokern.optim
from zokern.app.models import PromptedClassifier, load_classifier
from zokern.app.models.words import label_token_ids
from zokern.app.tasks import Example, UserError

from .conftest import CAUSAL, FAMILIES, MASKED, WORDS, tiny_task


def load(family, model_folder, task, **more):
    return load_classifier(str(model_folder(family)), task, **more)


def plain_logits(model: PromptedClassifier, folder, task, index, masked):
    """The published way: one prompt, no padding, the whole head, then the label words' columns."""
    auto = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
    lm = auto.from_pretrained(folder).eval()
    ids = torch.tensor([model.encode(task.test[index])])
    with torch.no_grad():
        logits = lm(ids).logits[0]
    place = ids[0].tolist().index(model.tokenizer.mask_token_id) if masked else -1
    return logits[place, model.label_ids]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_whole_model(family, model_folder, task):
    model = load(family, model_folder, task)
    batch, labels = model.collate(task, "test", range(6))
    with torch.no_grad():
        logits = model(batch)
    assert labels.tolist() == [example.label for example in task.test[:6]]
    for row, index in zip(logits, range(6)):
        expected = plain_logits(model, model_folder(family), task, index, family in MASKED)
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", CAUSAL)
def test_sharing_the_prefix_is_chosen_and_changes_nothing(family, model_folder, task):
    model = load(family, model_folder, task)
    model.prepare(task)
    assert model.share_prefix
    batch, _ = model.collate(task, "train", range(8))
    assert batch["prefix"].shape[1] >= 8
    with torch.no_grad():
        shared = model(batch)
        model.share_prefix = False
        plain_batch, _ = model.collate(task, "train", range(8))
        plain = model(plain_batch)
    assert plain_batch["prefix"].shape[1] == 0
    torch.testing.assert_close(shared, plain, rtol=1e-4, atol=1e-5)


def test_sharing_is_turned_off_where_it_changes_the_result(model_folder, task, monkeypatch):
    model = load("llama", model_folder, task)
    original = type(model.lm).forward

    def forgetful(self, *args, past_key_values=None, attention_mask=None, **kwargs):
        return original(self, *args, **kwargs)  # as a model without a key-value cache would

    monkeypatch.setattr(type(model.lm), "forward", forgetful)
    model.prepare(task)
    assert not model.share_prefix


@pytest.mark.parametrize("family", FAMILIES)
def test_head_never_sees_all_words_or_positions(family, model_folder, task):
    model = load(family, model_folder, task)
    shapes = []
    head = model.lm.get_output_embeddings()
    head.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
    with torch.no_grad():
        model(model.collate(task, "train", range(4))[0])
    assert shapes[-1] == (4, 1, 2)
    assert all(shape[1:] == (1, 2) for shape in shapes)


def test_generation_still_gets_the_whole_head(model_folder, task):
    model = load("llama", model_folder, task)
    with torch.no_grad():
        model(model.collate(task, "train", range(4))[0])
        assert model.lm(torch.tensor([[5, 6, 7]])).logits.shape == (1, 3, len(model.tokenizer))


def test_bf16_logits_keep_fp32_resolution(model_folder, task):
    model = load("llama", model_folder, task, dtype=torch.bfloat16)
    with torch.no_grad():
        logits = model(model.collate(task, "train", range(4))[0])
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


@pytest.mark.parametrize("restore", ["inplace", "exact", "snapshot"])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_every_restore_mode_sees_the_perturbed_head(family, restore, model_folder, task):
    # The head's rows are read inside its forward: a mode that swaps weights around each module's
    # forward must still perturb them, tied to the input embedding or not.
    def losses(mode):
        model = load(family, model_folder, task)
        optimizer = zokern.optim.MeZO(model, lr=1e-3, eps=1e-2, restore=mode, lazy=True)
        batch, labels = model.collate(task, "train", range(8))
        optimizer.step(lambda: torch.nn.functional.cross_entropy(model(batch), labels))
        return optimizer.last.losses

    plain = load(family, model_folder, task)
    with torch.no_grad():
        for i, p in enumerate(plain.parameters()):
            p += 1e-2 * zokern.normal(p.shape, zokern.derive_seed(0, 0), stream=i)
        batch, labels = plain.collate(task, "train", range(8))
        expected = torch.nn.functional.cross_entropy(plain(batch), labels).item()
    assert losses(restore)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_long_texts_lose_words_until_they_fit(family, model_folder):
    task = tiny_task(test=[Example({"text": "film story " * 400}, 1)])
    model = load(family, model_folder, task, max_length=60)
    tokens = model.encode(task.test[0])
    assert 55 <= len(tokens) <= 60
    if family == "bert":
        assert model.tokenizer.mask_token_id in tokens


def test_prompt_that_cannot_fit_is_refused(model_folder, task):
    model = load("gpt2", model_folder, task, max_length=5)
    with pytest.raises(UserError, match=r"longest allowed \(5\)"):
        model.encode(task.test[0])


def test_max_words_cuts_each_field(model_folder, task):
    model = load("gpt2", model_folder, task, max_words=2)
    first = " ".join(task.test[0].fields["text"].split()[:2])
    assert model.text(task.test[0], model.max_words).endswith(f"it said : {first}\nIt was")


def test_chat_template_wraps_the_question_and_precedes_the_answer(model_folder, task):
    model = load("llama", model_folder, task)
    model.tokenizer.chat_template = (
        "{% for m in messages %}<u>{{ m['content'] }}</u>{% endfor %}"
        "{% if add_generation_prompt %}<a>{% endif %}"
    )
    chat = PromptedClassifier(model.lm, model.tokenizer, task, masked=False)
    text = chat.text(Example({"text": "a film"}, 0), None)
    assert text == "<u>the film review was as follows and it said : a film</u><a>It was"


def test_chat_without_a_template_is_refused(model_folder, task):
    with pytest.raises(UserError, match="no chat template"):
        load("llama", model_folder, task, chat=True)


@pytest.mark.parametrize(
    ("family", "words", "message"),
    [
        ("gpt2", ("xylophone", "great"), r"'xylophone' is \d+ tokens"),
        ("bert", ("xylophone", "great"), "'xylophone' is unknown to"),
        ("bert", ("terrific", "great"), r"'terrific' is 2 tokens .*'terr' '##ific'"),
        ("gpt2", ("great", "great"), "'great' and 'great' are the same token"),
    ],
)
def test_label_words_must_be_single_different_tokens(family, words, message, model_folder):
    with pytest.raises(UserError, match=message):
        load(family, model_folder, tiny_task(label_words=words))


def test_label_word_is_the_token_that_continues_the_answer(model_folder, task):
    tokenizer = load("gpt2", model_folder, task).tokenizer
    ids = label_token_ids(tokenizer, WORDS, "It was", masked=False)
    for word, token in zip(WORDS, ids):
        assert tokenizer("It was " + word)["input_ids"][-1] == token
        assert tokenizer.decode([token]) == " " + word


@pytest.mark.parametrize("family", FAMILIES)
def test_mezo_lora_learns_through_every_family(family, model_folder, task):
    from zokern.app.tuning import apply_tuning

    model = load(family, model_folder, task)
    apply_tuning("lora", model)
    optimizer = zokern.optim.MeZO(model, lr=2e-2, eps=1e-2, num_queries=4, lazy=True)
    batch, labels = model.collate(task, "train", range(16))

    def closure():
        return torch.nn.functional.cross_entropy(model(batch), labels)

    with torch.no_grad():
        before = closure().item()
        for _ in range(25):
            optimizer.step(closure)
        assert closure().item() < before - 0.02
