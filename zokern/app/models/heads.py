"""Prompt-free classification: a transformer with a classification head on its features.

    HeadClassifier     transformers' own sequence-classification model of the family
    PooledClassifier   sentence encoders: mean over tokens, unit length, linear head

The pooled head starts at zero, so that training starts from the uniform guess and the first moves
are along the data, not along a random head's noise; its features have unit length scaled by
sqrt(d), so that one learning rate serves every width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from zokern.app.models.base import Classifier, Inputs, save_state
from zokern.app.models.prompted import save_transformer, transformer_layers
from zokern.app.tasks import Task, TextTask
from zokern.app.tasks.base import shorten

__all__ = ["HeadClassifier", "PooledClassifier"]


class _TextHead(Classifier):
    """Tokenizes the bare fields (a pair becomes two segments)."""

    def __init__(self, lm: nn.Module, tokenizer: Any, *, max_words: int | None, max_length: int) -> None:
        super().__init__()
        self.lm: Any = lm
        self.tokenizer = tokenizer
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.max_words, self.max_length = max_words, max_length
        self._encoded: dict[tuple[str, int], dict[str, list[int]]] = {}

    def _tokens(self, task: Task, split: str, index: int) -> dict[str, list[int]]:
        assert isinstance(task, TextTask)  # load_classifier pairs them
        key = (split, index)
        if key not in self._encoded:
            example = (task.train if split == "train" else task.test)[index]
            fields = [shorten(value, self.max_words) for value in example.fields.values()]
            pair = fields if len(fields) == 2 else ["\n".join(fields)]
            tokens = dict(self.tokenizer(*pair, truncation=True, max_length=self.max_length))
            if not tokens["input_ids"]:  # an empty text, and a tokenizer that puts nothing around it
                tokens.update(input_ids=[self.tokenizer.pad_token_id], attention_mask=[1])
            self._encoded[key] = tokens
        return self._encoded[key]

    def length(self, task: Task, split: str, index: int) -> int:
        return len(self._tokens(task, split, index)["input_ids"])

    def collate(self, task: Task, split: str, indices: Sequence[int]) -> tuple[Inputs, torch.Tensor]:
        assert isinstance(task, TextTask)
        examples = task.train if split == "train" else task.test
        device = next(self.parameters()).device
        rows = [self._tokens(task, split, index) for index in indices]
        padded = self.tokenizer.pad(rows, padding_side="right", return_tensors="pt")
        batch = {name: value.to(device) for name, value in padded.items()}
        return batch, torch.tensor([examples[index].label for index in indices], device=device)

    def layers(self) -> list[nn.Module]:
        return transformer_layers(self.lm)


class HeadClassifier(_TextHead):
    """A transformers sequence-classification model.

    Args:
        lm: from `AutoModelForSequenceClassification`.
        tokenizer: its tokenizer; without a padding token it takes the end-of-text one.
        max_words, max_length: limits of each text, in words, and of the whole, in tokens.
    """

    def __init__(
        self, lm: nn.Module, tokenizer: Any, *, max_words: int | None = None, max_length: int = 512
    ) -> None:
        super().__init__(lm, tokenizer, max_words=max_words, max_length=max_length)
        self.lm.config.pad_token_id = tokenizer.pad_token_id
        count = sum(p.numel() for p in lm.parameters())
        self.description = f"{self.lm.config.model_type}, {count / 1e6:.1f} M parameters, classification head"

    def forward(self, batch: Inputs) -> torch.Tensor:
        return self.lm(**batch).logits.float()  # [B, classes]

    def features(self, batch: Inputs) -> torch.Tensor:
        return _mean(self.lm.base_model(**batch).last_hidden_state, batch)

    def head_modules(self) -> list[nn.Module]:
        base = getattr(self.lm, self.lm.base_model_prefix, None)
        return [module for module in self.lm.children() if module is not base]

    def save(self, folder: Path) -> list[Path]:
        return save_transformer(self.lm, self.tokenizer, folder)


class PooledClassifier(_TextHead):
    """A sentence encoder with a linear head on its mean-pooled features.

        f_b = sqrt(d) * mean_t(h_bt) / |mean_t(h_bt)|;   logits = f W^T + bias

    Args:
        lm: from `AutoModel`.
        tokenizer: its tokenizer.
        classes: number of classes.
        max_words, max_length: limits of each text, in words, and of the whole, in tokens.
    """

    def __init__(
        self,
        lm: nn.Module,
        tokenizer: Any,
        classes: int,
        *,
        max_words: int | None = None,
        max_length: int = 512,
    ) -> None:
        super().__init__(lm, tokenizer, max_words=max_words, max_length=max_length)
        weight = next(lm.parameters())
        self.head = nn.Linear(self.lm.config.hidden_size, classes).to(weight)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        count = sum(p.numel() for p in lm.parameters())
        self.description = (
            f"{self.lm.config.model_type} sentence encoder, {count / 1e6:.1f} M parameters, "
            "linear head on mean-pooled features"
        )

    def forward(self, batch: Inputs) -> torch.Tensor:
        return self.head(self.features(batch).to(self.head.weight.dtype)).float()

    def features(self, batch: Inputs) -> torch.Tensor:
        mean = _mean(self.lm(**batch).last_hidden_state, batch)
        return F.normalize(mean, dim=1) * mean.shape[-1] ** 0.5  # [B, d]

    def head_modules(self) -> list[nn.Module]:
        return [self.head]

    def save(self, folder: Path) -> list[Path]:
        written = save_transformer(self.lm, self.tokenizer, folder)
        return [*written, save_state(self.head.state_dict(), folder / "head.safetensors")]


def _mean(hidden: torch.Tensor, batch: Inputs) -> torch.Tensor:
    """The mean of hidden [B, T, d] over the tokens that are no padding, fp32 [B, d]."""
    mask = batch["attention_mask"][..., None].float()
    return (hidden.float() * mask).sum(1) / mask.sum(1)
