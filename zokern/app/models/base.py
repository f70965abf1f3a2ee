"""The face every model shows to the training loop: a batch of examples in, class logits out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zokern.app.tasks import ArrayTask, Task

__all__ = ["Classifier", "Inputs", "MLPClassifier"]

Inputs = dict[str, torch.Tensor]
"""What a model reads of a batch of examples, by name."""


class Classifier(nn.Module):
    """A model with class logits. Subclasses fill in `collate`, `forward` and `save`.

    It is a module so that an optimizer can be given all of it: hooks that land a pending update
    before a forward see every call.
    """

    #: What the model is, for the run's header: "Llama, 134.5 M parameters, label words".
    description: str = ""
    #: The transformers model inside, where there is one; LoRA is injected into it.
    lm: Any

    def collate(self, task: Task, split: str, indices: Sequence[int]) -> tuple[Inputs, torch.Tensor]:
        """The inputs and labels int64 [B] of some examples of `split` ("train" or "test")."""
        raise NotImplementedError

    def forward(self, batch: Inputs) -> torch.Tensor:
        """Class logits, fp32 [B, classes]."""
        raise NotImplementedError

    def features(self, batch: Inputs) -> torch.Tensor:
        """What the last linear layer sees of each example, fp32 [B, d], for linear probing."""
        raise NotImplementedError

    def length(self, task: Task, split: str, index: int) -> int:
        """A size to sort by, so that test batches hold examples of similar length."""
        return 0

    def prepare(self, task: Task) -> None:
        """Called once, after tuning was set up and before the first step."""

    def layers(self) -> list[nn.Module]:
        """The repeated blocks, first to last, for `--tuning last-layers`."""
        return []

    def head_modules(self) -> list[nn.Module]:
        """The modules that turn features into logits, for `--tuning head`."""
        return []

    def save(self, folder: Path) -> list[Path]:
        """Writes the weights into `folder` in safetensors; returns what was written."""
        raise NotImplementedError


class MLPClassifier(Classifier):
    """Linear, ReLU, Linear for feature rows; PyTorch's own initialisation."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.lm = None
        self.layer1 = nn.Linear(features, hidden)
        self.layer2 = nn.Linear(hidden, classes)
        count = sum(p.numel() for p in self.parameters())
        self.description = f"multilayer perceptron {features}-{hidden}-{classes}, {count:,} parameters"

    def collate(self, task: Task, split: str, indices: Sequence[int]) -> tuple[Inputs, torch.Tensor]:
        assert isinstance(task, ArrayTask)  # load_classifier pairs them
        x, y = (task.train_x, task.train_y) if split == "train" else (task.test_x, task.test_y)
        device = self.layer1.weight.device
        chosen = torch.as_tensor(list(indices))
        return {"x": x[chosen].to(device)}, y[chosen].to(device)

    def forward(self, batch: Inputs) -> torch.Tensor:
        return self.layer2(self._hidden(batch)).float()

    def features(self, batch: Inputs) -> torch.Tensor:
        return self._hidden(batch).float()

    def _hidden(self, batch: Inputs) -> torch.Tensor:
        x = batch["x"].to(self.layer1.weight.dtype)  # [B, features]
        return torch.relu(self.layer1(x))

    def layers(self) -> list[nn.Module]:
        return [self.layer1, self.layer2]

    def head_modules(self) -> list[nn.Module]:
        return [self.layer2]

    def save(self, folder: Path) -> list[Path]:
        return [save_state(self.state_dict(), folder / "model.safetensors")]


def save_state(state: dict[str, Any], path: Path) -> Path:
    """Writes tensors to a safetensors file; tied tensors are written out each."""
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous().clone() for name, value in state.items()}, path)
    return path
