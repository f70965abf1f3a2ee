"""What each tuning trains, and what it writes."""

from __future__ import annotations

import json

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from zokern.app.models import load_classifier
from zokern.app.tasks import UserError, load_task
from zokern.app.tuning import TUNINGS, TuningOptions, apply_tuning

from .conftest import CAUSAL, FAMILIES


def trainable(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture
def llama(model_folder, task):
    return load_classifier(str(model_folder("llama")), task)


def test_full_trains_everything(llama):
    apply_tuning("full", llama)
    assert trainable(llama) == {name for name, _ in llama.named_parameters()}


def test_trained_weights_leave_the_file_they_were_mapped_from(llama):
    before = {name: p.clone() for name, p in llama.named_parameters()}
    where = {name: p.data_ptr() for name, p in llama.named_parameters()}
    apply_tuning("last-layers", llama, TuningOptions(last_layers=1))
    for name, p in llama.named_parameters():
        assert torch.equal(p, before[name])
        assert (p.data_ptr() != where[name]) == p.requires_grad, name


def test_weights_tied_by_memory_alone_stay_tied(llama):
    one, other = list(llama.parameters())[1:3]
    other.data = one.data
    apply_tuning("full", llama)
    assert one.data_ptr() == other.data_ptr()


@pytest.mark.parametrize("family", FAMILIES)
def test_last_layers_leaves_the_embeddings_alone(family, model_folder, task):
    model = load_classifier(str(model_folder(family)), task)
    apply_tuning("last-layers", model, TuningOptions(last_layers=1))
    names = trainable(model)
    assert names
    assert not any("embed" in n or "wte" in n or ".0." in n for n in names), names


def test_last_layers_out_of_range(llama):
    with pytest.raises(UserError, match="between 1 and 2 for this model, got 3"):
        apply_tuning("last-layers", llama, TuningOptions(last_layers=3))


def test_head_of_a_classification_model(model_folder, task):
    model = load_classifier(str(model_folder("bert")), task, scoring="head")
    apply_tuning("head", model)
    assert trainable(model) == {"lm.classifier.weight", "lm.classifier.bias"}


@pytest.mark.parametrize("pattern", ["*layers.1.mlp*", "layers.1.mlp", "lm.model.layers.1.mlp.*"])
def test_patterns_name_parameters_or_modules(llama, pattern):
    apply_tuning("modules", llama, TuningOptions(modules=[pattern]))
    assert trainable(llama) == {
        f"lm.model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")
    }


def test_pattern_without_a_match_shows_names(llama):
    with pytest.raises(UserError, match=r"'nothing' matches no parameter; names look like lm\."):
        apply_tuning("modules", llama, TuningOptions(modules=["nothing"]))
    with pytest.raises(UserError, match="at least one --train-modules"):
        apply_tuning("modules", llama)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # between peft and transformers
@pytest.mark.parametrize("family", FAMILIES)
def test_lora_starts_at_the_model_and_its_files_load_in_peft(family, model_folder, task, tmp_path):
    folder = model_folder(family)
    model = load_classifier(str(folder), task)
    batch, _ = model.collate(task, "test", range(4))
    with torch.no_grad():
        before = model(batch)
    tuned = apply_tuning("lora", model, TuningOptions(lora_rank=2, seed=3))
    assert all("lora_" in name for name in trainable(model))
    with torch.no_grad():
        torch.testing.assert_close(model(batch), before)
        generator = torch.Generator().manual_seed(0)
        for p in model.parameters():
            if p.requires_grad:
                p.normal_(generator=generator)
        after = model(batch)
    assert not torch.allclose(after, before)
    written = {path.name for path in tuned.save(tmp_path)}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= written

    again = load_classifier(str(folder), task)
    again.lm = peft.PeftModel.from_pretrained(again.lm, tmp_path).get_base_model()
    with torch.no_grad():
        torch.testing.assert_close(again(batch), after)


def test_lora_initialisation_comes_from_the_seed(model_folder, task):
    before = torch.random.get_rng_state()
    weights = []
    for seed in (1, 1, 2):
        model = load_classifier(str(model_folder("opt")), task)
        apply_tuning("lora", model, TuningOptions(seed=seed))
        weights.append(torch.cat([p.flatten() for p in model.parameters() if p.requires_grad]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_lora_trains_a_fresh_head_and_saves_it(model_folder, task, tmp_path):
    model = load_classifier(str(model_folder("bert")), task, scoring="head")
    tuned = apply_tuning("lora", model)
    assert {"lm.classifier.weight", "lm.classifier.bias"} < trainable(model)
    tuned.save(tmp_path)
    saved = load_file(tmp_path / "head.safetensors")
    assert torch.equal(saved["head.weight"], model.lm.classifier.weight)


def test_adapters_are_fp32_on_a_bf16_model(model_folder, task):
    model = load_classifier(str(model_folder("llama")), task, dtype=torch.bfloat16)
    apply_tuning("lora", model)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    with torch.no_grad():
        assert model(model.collate(task, "test", range(3))[0]).isfinite().all()


def test_lora_on_layers_that_do_not_exist(llama):
    with pytest.raises(UserError, match=r"LoRA cannot be added to \['nope'\]"):
        apply_tuning("lora", llama, TuningOptions(lora_targets=["nope"]))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
def test_lora_on_the_head_is_refused_with_a_way_out(llama, task):
    apply_tuning("lora", llama, TuningOptions(lora_targets=["lm_head"]))
    with pytest.raises(UserError, match="leave the head out of LoRA"), torch.no_grad():
        llama(llama.collate(task, "test", [0])[0])


def test_lora_needs_a_transformer():
    with pytest.raises(UserError, match="needs a transformer"):
        apply_tuning("lora", load_classifier(None, load_task("digits")))


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("family", CAUSAL)
def test_prefix_is_trained_alone_and_its_file_loads_in_peft(
    family, share_prefix, model_folder, task, tmp_path
):
    """Also through the shared beginning of the prompts, whose cache then begins with the prefix."""
    folder = model_folder(family)
    model = load_classifier(str(folder), task)
    batch, _ = model.collate(task, "test", range(4))
    with torch.no_grad():
        before = model(batch)
    tuned = apply_tuning("prefix", model, TuningOptions(prefix_tokens=3, seed=3))
    assert tuned.description == "keys and values of a prefix of 3 tokens"
    ((name, p),) = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert "prompt_encoder" in name and p.dtype == torch.float32
    model.share_prefix = share_prefix
    model.prepare(task)
    assert model.share_prefix == share_prefix
    batch, _ = model.collate(task, "test", range(4))
    with torch.no_grad():
        p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
        after = model(batch)
    assert not torch.allclose(after, before)
    assert {path.name for path in tuned.save(tmp_path)} >= {
        "adapter_model.safetensors",
        "adapter_config.json",
    }

    lm = transformers.AutoModelForCausalLM.from_pretrained(folder)
    wrapped = peft.PeftModel.from_pretrained(lm, tmp_path).eval()
    rows = [model.encode(example) for example in task.test[:4]]
    with torch.no_grad():  # every prompt by itself, through peft's own forward and the whole vocabulary
        logits = [wrapped(input_ids=torch.tensor([row])).logits[0, -1, model.label_ids] for row in rows]
    torch.testing.assert_close(after, torch.stack(logits), rtol=1e-4, atol=1e-4)


def test_prefix_starts_at_activations_of_the_seeds_words(model_folder, task):
    weights = []
    for seed in (1, 1, 2):
        model = load_classifier(str(model_folder("llama")), task)
        apply_tuning("prefix", model, TuningOptions(seed=seed))
        weights.extend(p for p in model.parameters() if p.requires_grad)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    decoder = load_classifier(str(model_folder("llama")), task).lm.model
    layer = decoder.layers[0]
    with torch.no_grad():  # values of the first layer do not depend on the position
        known = layer.self_attn.v_proj(layer.input_layernorm(decoder.embed_tokens.weight))  # [words, d]
        values = weights[0].view(5, 4, -1)[:, 1]  # [tokens, d]; per layer keys, then values
        distances = torch.cdist(values, known, compute_mode="donot_use_mm_for_euclid_dist")
        assert distances.min(dim=1).values.max() < 1e-5


def test_prefix_needs_a_causal_model(model_folder, task):
    for model in (
        load_classifier(str(model_folder("bert")), task),
        load_classifier(str(model_folder("llama")), task, scoring="head"),
        load_classifier(None, load_task("digits")),
    ):
        with pytest.raises(UserError, match="--tuning prefix needs a causal language model"):
            apply_tuning("prefix", model)


def test_unknown_tuning_lists_the_known(llama):
    with pytest.raises(UserError, match=f"Unknown tuning 'suffix'; known: {', '.join(TUNINGS)}"):
        apply_tuning("suffix", llama)


def test_full_weights_load_in_transformers(llama, tmp_path):
    tuned = apply_tuning("full", llama)
    tuned.save(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    for (name, p), (_, q) in zip(llama.lm.named_parameters(), again.named_parameters()):
        assert torch.equal(p, q), name
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llama"
    assert (tmp_path / "tokenizer.json").exists()


def test_a_new_tuning_is_one_entry(llama, monkeypatch):
    from zokern.app.tuning import Tuned

    def norms(model, options):
        model.requires_grad_(False)
        for name, p in model.named_parameters():
            p.requires_grad_("norm" in name)
        return Tuned("the norms", model.save)

    monkeypatch.setitem(TUNINGS, "norms", norms)
    apply_tuning("norms", llama)
    assert all("norm" in name for name in trainable(llama))
