"""Tiny randomly initialised models of the families, and the modules that get an adapter in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

HIDDEN = 24
LAYERS = 2


def _sizes(*names: str, **more: Any) -> dict[str, Any]:
    width, inner, layers, heads = names
    values = {width: HIDDEN, inner: 40, layers: LAYERS, heads: 2, "vocab_size": 61}
    return {**values, **more, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def _llama() -> nn.Module:
    import transformers as t

    sizes = _sizes("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return t.LlamaForCausalLM(t.LlamaConfig(**sizes, num_key_value_heads=1))


def _opt() -> nn.Module:
    import transformers as t

    sizes = _sizes("hidden_size", "ffn_dim", "num_hidden_layers", "num_attention_heads")
    config = t.OPTConfig(**sizes, word_embed_proj_dim=HIDDEN, max_position_embeddings=32)
    return t.OPTForCausalLM(config)


def _gpt2() -> nn.Module:
    import transformers as t

    sizes = _sizes("n_embd", "n_inner", "n_layer", "n_head")
    return t.GPT2LMHeadModel(t.GPT2Config(**sizes, n_positions=32))


def _roberta() -> nn.Module:
    import transformers as t

    sizes = _sizes("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = t.RobertaConfig(**sizes, max_position_embeddings=40)
    return t.RobertaForMaskedLM(config)


def _bert() -> nn.Module:
    import transformers as t

    sizes = _sizes("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return t.BertForSequenceClassification(t.BertConfig(**sizes))


def _distilbert() -> nn.Module:
    import transformers as t

    sizes = _sizes("dim", "hidden_dim", "n_layers", "n_heads")
    return t.DistilBertForSequenceClassification(t.DistilBertConfig(**sizes))


FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[str, str]]] = {
    "llama": (_llama, ("model.layers.{}.self_attn", "model.layers.{}.mlp")),
    "opt": (_opt, ("model.decoder.layers.{}.self_attn", "model.decoder.layers.{}.fc2")),
    "gpt2": (_gpt2, ("transformer.h.{}.attn", "transformer.h.{}.mlp")),
    "roberta": (
        _roberta,
        ("roberta.encoder.layer.{}.attention.output.dense", "roberta.encoder.layer.{}.output.dense"),
    ),
    "bert": (
        _bert,
        ("bert.encoder.layer.{}.attention.output.dense", "bert.encoder.layer.{}.output.dense"),
    ),
    "distilbert": (
        _distilbert,
        ("distilbert.transformer.layer.{}.attention", "distilbert.transformer.layer.{}.ffn"),
    ),
}


def make(family: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model with larger weights than its initialiser gives, so that its parts matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FAMILIES[family][0]()
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() == 2:
                    p.mul_(5.0)
    return model.to(dtype).eval()


def targets(family: str) -> list[str]:
    return [name.format(layer) for layer in range(LAYERS) for name in FAMILIES[family][1]]


def tokens(rows: int = 3, length: int = 6) -> Tensor:
    return torch.randint(3, 61, (rows, length), generator=torch.Generator().manual_seed(1))


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids).logits
