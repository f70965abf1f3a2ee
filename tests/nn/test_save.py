from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from zokern.nn import add_tt_adapters, find_tt_adapters, load_tt_adapters, save_tt_adapters

from .families import FAMILIES, logits, make, tokens

OPTIONS = {"bottleneck": 8, "rank": 3, "activation": "gelu", "scale": 0.5, "bias": True}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = make("llama")
    add_tt_adapters(model, **OPTIONS)
    save_tt_adapters(model, tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_model_gives_the_same_bits(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model, ids = make(family, dtype), tokens()
    flat = add_tt_adapters(model, **OPTIONS).flat
    with torch.no_grad():
        flat.copy_(0.5 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(1)))
    files = save_tt_adapters(model, tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["tt_adapters.safetensors", "tt_adapters.json"]
    fresh = make(family, dtype)
    bank = load_tt_adapters(fresh, tmp_path / "new" / "folder")
    assert torch.equal(logits(fresh, ids), logits(model, ids))
    assert torch.equal(bank.flat, flat) and bank.config == find_tt_adapters(model).config
    assert [n for n, p in fresh.named_parameters() if p.requires_grad] == ["tt_adapters.flat"]


def test_into_a_model_that_has_adapters_like_them(saved: Path) -> None:
    model = make("llama")
    bank = add_tt_adapters(model, **OPTIONS)
    flat = bank.flat
    load_tt_adapters(model, saved)
    source = load_file(saved / "tt_adapters.safetensors")
    assert find_tt_adapters(model).flat is flat  # an optimizer's parameter stays the parameter
    for name, part in bank.named_parts():
        assert torch.equal(part, source[name])


def test_tensors_are_named_after_the_modules(saved: Path) -> None:
    tensors = load_file(saved / "tt_adapters.safetensors")
    assert tensors["model.layers.1.mlp.up.0"].shape == (1, 2, 2)
    assert tensors["model.layers.0.self_attn.up_bias"].shape == (24,)
    config = json.loads((saved / "tt_adapters.json").read_text())
    assert config["format"] == "zokern-tt-adapters/1" and config["model_type"] == "llama"


class TestErrors:
    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"holds no tt_adapters\.safetensors"):
            load_tt_adapters(make("llama"), tmp_path)

    def test_other_format(self, saved: Path) -> None:
        (saved / "tt_adapters.json").write_text('{"format": "other"}')
        with pytest.raises(ValueError, match="is not of the format zokern-tt-adapters/1"):
            load_tt_adapters(make("llama"), saved)

    def test_other_model(self, saved: Path) -> None:
        model = make("gpt2")
        with pytest.raises(ValueError, match=r"model \(GPT2LMHeadModel\) has no module 'model.layers"):
            load_tt_adapters(model, saved)
        assert not hasattr(model, "tt_adapters")

    def test_other_width(self, saved: Path) -> None:
        import transformers as t

        config = make("llama").config
        wide = t.LlamaForCausalLM(t.LlamaConfig(**{**config.to_dict(), "hidden_size": 32}))
        with pytest.raises(ValueError, match=r"hidden: .*self_attn gives 32 features.*has 24"):
            load_tt_adapters(wide, saved)
        assert not hasattr(wide, "tt_adapters")

    def test_other_options(self, saved: Path) -> None:
        model = make("llama")
        add_tt_adapters(model, **{**OPTIONS, "rank": 4})
        with pytest.raises(ValueError, match="adapters with rank = 4, the file has 3"):
            load_tt_adapters(model, saved)

    def test_damaged_tensors(self, saved: Path) -> None:
        path = saved / "tt_adapters.safetensors"
        tensors = load_file(path)
        del tensors["model.layers.0.mlp.down.2"]
        save_file(tensors, path)
        model = make("llama")
        with pytest.raises(ValueError, match=r"model.layers.0.mlp.down.2 is missing from"):
            load_tt_adapters(model, saved)
        tensors["model.layers.0.mlp.down.2"] = torch.ones(2, 2, 2)
        save_file(tensors, path)
        with pytest.raises(ValueError, match=r"down.2 has shape \(3, 4, 3\) in the model and \(2, 2, 2\)"):
            load_tt_adapters(model, saved)
        assert not hasattr(model, "tt_adapters")

    def test_nothing_to_save(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="has no TT adapters"):
            save_tt_adapters(make("llama"), tmp_path)
