from __future__ import annotations

import pytest
import torch
from torch import nn

import zokern
from tests.nn.families import make
from zokern.app import parameters
from zokern.app.parameters import parameter_report
from zokern.nn import add_tt_adapters


def test_counts_what_the_model_holds() -> None:
    model = make("llama")
    full = sum(p.numel() for p in model.parameters())
    foretold = parameter_report(model, 8, 3, lora_rank=2)
    bank = add_tt_adapters(model, 8, 3)
    report = parameter_report(model, lora_rank=2)
    assert report == foretold
    assert report.full == full and report.tt == bank.flat.numel() and report.adapters == 4
    assert report.tt_cores == report.tt - 4 * 8
    assert report.bottleneck == 4 * (2 * 24 * 8 + 24 + 8)
    # rank 2 on q (24 -> 24) and v (24 -> 12), in two layers
    assert report.lora == 2 * 2 * (48 + 36)


def test_published_shapes() -> None:
    """4096 wide, bottleneck 64, rank 5: over 80 times fewer, biases counted on both sides."""
    with torch.device("meta"):
        model = nn.ModuleDict({"layers": nn.ModuleList(_Block() for _ in range(32))})
    report = parameter_report(model, 64, 5, bias=True, hidden=4096)
    assert report.adapters == 64 and report.reduction == pytest.approx(83.7, abs=0.05)
    assert report.reduction_of_matrices == pytest.approx(243.6, abs=0.05)
    assert parameter_report(model, 64, 5, hidden=4096).tt == 64 * (2 * 1076 + 64)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = nn.Linear(4096, 4096), nn.Linear(4096, 4096)


def test_table() -> None:
    text = str(parameter_report(make("bert"), 8, 3))
    assert "4 dense bottleneck adapters" in text and "LoRA r=8 on query and value" in text
    assert str(parameter_report(make("gpt2"), 8, 3)).count("\n") == 6


@pytest.mark.parametrize("name", parameters.__all__)
def test_had_from_nn_for_one_release(name: str) -> None:
    now = f"zokern.nn.{name} is now zokern.app.parameters.{name}"
    with pytest.warns(DeprecationWarning, match=now) as caught:
        old = getattr(zokern.nn, name)
    assert old is getattr(parameters, name)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("name", ["report_parameters"])
def test_nn_refuses_other_names(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'zokern.nn' has no attribute '{name}'"):
        getattr(zokern.nn, name)
