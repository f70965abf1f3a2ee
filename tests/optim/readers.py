"""Modules that read weights in their own ways, for `restore="exact"`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """nn.MultiheadAttention reads out_proj.weight itself; out_proj's forward never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class FastAttention(Attention):
    """In eval mode the whole attention is one fused call (but not under a torch function mode)."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()


class FunctionalHead(nn.Module):
    """embed's forward runs, and its weight is read once more by F.linear."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 8)
        self.middle = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.middle(self.embed(x[..., 0].abs().long() % 5))
        return F.linear(hidden, self.embed.weight)


class ModuleHead(nn.Module):
    """The same with a tied nn.Linear: two modules, one parameter, both forwards run."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 8)
        self.head = nn.Linear(8, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x[..., 0].abs().long() % 5))


class Nested(nn.Module):
    """Owns a weight, calls a child that owns another, and reads its own again afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 8))
        self.child = nn.Linear(8, 8)
        self.shift = nn.Parameter(torch.linspace(-1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.child(x * self.scale) * self.scale + self.shift


class Recursive(nn.Module):
    """Its forward runs within its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 8))

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        x = x * self.weight
        return self(x, depth - 1) * self.weight if depth else x


class ReturnsWeight(nn.Module):
    """One child returns its weight, one a view of it, used after their forwards."""

    class Table(nn.Module):
        def __init__(self, turned: bool) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(-1, 1, 64).view(8, 8) ** 3)
            self.turned = turned

        def forward(self) -> Tensor:
            return self.weight.t() if self.turned else self.weight

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = self.Table(False), self.Table(True)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(), self.second()
        return x @ a @ b


class Keeps(nn.Module):
    """A child stows a view of its weight away; a sibling uses it."""

    class Child(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(-1, 1, 64).view(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            self.__dict__["kept"] = self.weight[:4].t()
            return x @ self.weight

    def __init__(self) -> None:
        super().__init__()
        self.child, self.other = self.Child(), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.child(x)) @ self.child.__dict__["kept"]


class DirectForward(nn.Module):
    """Calls a child's forward by name, so that no hook runs."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.child.forward(x)


class Data(nn.Module):
    """Reads through .data outside the owner's forward."""

    def __init__(self) -> None:
        super().__init__()
        self.child, self.other = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.child(x)) @ self.child.weight.data


class Recurrent(nn.Module):
    """nn.LSTM holds its weights in a list of its own as well."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


class Parametrized(nn.Module):
    """The weight is computed by parametrization modules when it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Encoder(nn.Module):
    """In eval mode its fast path reads all of its children's weights in one fused call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Regularised(nn.Module):
    """The loss reads the weights outside any forward."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + sum(p.square().sum() for p in self.linear.parameters())


MODULES: dict[type[nn.Module], list[str]] = {
    Attention: ["attention.out_proj.weight", "attention.out_proj.bias"],
    FastAttention: ["attention.out_proj.weight", "attention.out_proj.bias"],
    FunctionalHead: ["embed.weight"],
    ModuleHead: [],
    Nested: [],
    Recursive: [],
    ReturnsWeight: ["first.weight", "second.weight"],
    Keeps: ["child.weight"],
    DirectForward: ["child.weight", "child.bias"],
    Data: ["child.weight"],
    Recurrent: [],
    Parametrized: [],
    Encoder: ["layer.self_attn.out_proj.weight", "layer.self_attn.out_proj.bias"],
    Regularised: ["linear.weight", "linear.bias"],
}
