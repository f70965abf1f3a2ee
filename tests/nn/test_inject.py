"""Adapters in real architectures: where they stand, what they leave alone."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from zokern.nn import TTAdapter, add_tt_adapters, find_tt_adapters, remove_tt_adapters

from .families import FAMILIES, HIDDEN, logits, make, targets, tokens

DTYPES = [torch.float32, torch.bfloat16]


def scramble(model: nn.Module) -> None:
    flat = find_tt_adapters(model).flat
    with torch.no_grad():
        flat.copy_(0.5 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_output_is_unchanged_to_the_bit(family: str, dtype: torch.dtype) -> None:
    model, ids = make(family, dtype), tokens()
    before = logits(model, ids)
    adapters = add_tt_adapters(model, bottleneck=8, rank=3)
    assert torch.equal(logits(model, ids), before)
    assert adapters.names == targets(family)
    assert adapters.flat.dtype == torch.float32
    scramble(model)
    assert not torch.equal(logits(model, ids), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_adapter_works_on_what_the_residual_adds(family: str) -> None:
    """Bit for bit what replacing the block's output by hand gives."""
    model, ids = make(family), tokens()
    plain = copy.deepcopy(model)
    adapters = add_tt_adapters(model, bottleneck=8, rank=3)
    scramble(model)
    for name, adapter in zip(adapters.names, adapters.adapters):
        block = plain.get_submodule(name)
        forward = block.forward

        def replaced(*args: Any, forward: Any = forward, adapter: Any = adapter, **kw: Any) -> Any:
            output = forward(*args, **kw)
            if isinstance(output, tuple):
                return (adapter(output[0]), *output[1:])
            return adapter(output)

        block.forward = replaced
    assert torch.equal(logits(model, ids), logits(plain, ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_adapter_matters_and_runs_once(family: str) -> None:
    model, ids = make(family), tokens()
    adapters = add_tt_adapters(model, bottleneck=8, rank=3)
    calls: list[str] = []
    for name, adapter in zip(adapters.names, adapters.adapters):
        adapter.register_forward_hook(lambda *_, name=name: calls.append(name))
    before = logits(model, ids)
    assert calls == targets(family)
    generator = torch.Generator().manual_seed(0)
    for adapter in adapters.adapters:
        start = adapters.flat.detach().clone()
        with torch.no_grad():
            for part in adapter.parts():
                part.copy_(torch.randn(part.shape, generator=generator))
        assert not torch.equal(logits(model, ids), before)
        with torch.no_grad():
            adapters.flat.copy_(start)


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_else_is_frozen_and_comes_back(family: str) -> None:
    model, ids = make(family), tokens()
    first = next(iter(model.parameters()))
    first.requires_grad_(False)
    names, before = [n for n, _ in model.named_parameters()], logits(model, ids)
    add_tt_adapters(model, bottleneck=8, rank=3)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["tt_adapters.flat"]
    scramble(model)
    remove_tt_adapters(model)
    assert torch.equal(logits(model, ids), before)
    assert [n for n, _ in model.named_parameters()] == names
    assert [p.requires_grad for p in model.parameters()] == [p is not first for p in model.parameters()]
    add_tt_adapters(model)  # and again


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_copy_has_adapters_of_its_own(family: str) -> None:
    model, ids = make(family), tokens()
    add_tt_adapters(model, bottleneck=8, rank=3)
    scramble(model)
    before = logits(model, ids)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(twin, ids), before)
    with torch.no_grad():
        find_tt_adapters(twin).flat.zero_()
    assert torch.equal(logits(model, ids), before)
    assert not torch.equal(logits(twin, ids), before)
    remove_tt_adapters(twin)
    assert torch.equal(logits(model, ids), before)


def test_state_dict_round_trip() -> None:
    model, ids = make("llama"), tokens()
    add_tt_adapters(model, bottleneck=8, rank=3)
    scramble(model)
    other = make("llama")
    add_tt_adapters(other, bottleneck=8, rank=3)
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(other, ids), logits(model, ids))


def test_casting_the_model_leaves_the_adapters() -> None:
    model = make("llama")
    flat = add_tt_adapters(model, bottleneck=8, rank=3).flat.detach().clone()
    model.to(torch.bfloat16)
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert torch.equal(model.tt_adapters.flat, flat)


def test_start_values_come_from_the_generator() -> None:
    flats = []
    for _ in range(2):
        model = make("gpt2")
        generator = torch.Generator().manual_seed(11)
        flats.append(add_tt_adapters(model, 8, generator=generator).flat.detach())
    assert torch.equal(*flats)


def test_first_order_training_goes_down() -> None:
    model, ids = make("llama"), tokens(rows=6)
    adapters = add_tt_adapters(model, bottleneck=8, rank=3)
    labels = torch.arange(6)
    optimizer = torch.optim.AdamW(model.tt_adapters.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(ids).logits[:, -1], labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0] and adapters.flat.grad is not None


class Pair(NamedTuple):
    out: torch.Tensor
    extra: str


class Block(nn.Module):
    """A block of somebody's own model: a chain for feed-forward, a named tuple from attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = Mix(width)
        self.ffn = nn.Sequential(nn.Linear(width, 40), nn.ReLU(), nn.Linear(40, width), nn.Dropout())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.mix(x)
        assert mixed.extra == "kept"
        x = x + mixed.out
        return x + self.ffn(x)


class Mix(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> Pair:
        return Pair(self.linear(x), "kept")


def own_model(width: int = 61) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[Block(width) for _ in range(2)]).eval()


def test_any_model_by_pattern() -> None:
    model, x = own_model(), torch.randn(4, 1, 61)
    with torch.no_grad():
        before = model(x)
        adapters = add_tt_adapters(model, 8, targets=["mix", "*.ffn"], hidden=61)
        assert adapters.names == ["0.mix", "0.ffn", "1.mix", "1.ffn"]
        assert torch.equal(model(x), before)
        scramble(model)
        assert model(x).shape == (4, 1, 61) and not torch.equal(model(x), before)
        remove_tt_adapters(model)
        assert torch.equal(model(x), before)


def test_width_is_read_off_a_chain_or_a_linear() -> None:
    model = own_model()
    adapters = add_tt_adapters(model, 8, targets=["ffn", "mix.linear"])
    assert [a.hidden for a in adapters.adapters] == [61] * 4


def test_own_targets_are_not_written_over_unless_asked() -> None:
    """A module may hand out a tensor that it keeps."""

    class Keeps(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    x = torch.ones(2, 8)
    model = nn.Sequential(Keeps())
    with torch.no_grad():
        add_tt_adapters(model, 4, targets=["0"], hidden=8)
        scramble(model)
        model(x)
        assert torch.equal(x, torch.ones(2, 8))
        remove_tt_adapters(model)
        add_tt_adapters(model, 4, targets=["0"], hidden=8, inplace=True)
        scramble(model)
        model(x)
        assert not torch.equal(x, torch.ones(2, 8))


def test_families_with_the_same_module_names_are_known() -> None:
    import transformers as t

    config = t.Qwen2Config(
        vocab_size=61, hidden_size=HIDDEN, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    adapters = add_tt_adapters(t.Qwen2ForCausalLM(config), 8)
    assert adapters.names == targets("llama")


class TestErrors:
    def test_nothing_matches(self) -> None:
        model = make("llama")
        with pytest.raises(ValueError, match=r"targets: no module matches 'layers.\*.ffn'; names look"):
            add_tt_adapters(model, targets=("layers.*.ffn",))
        assert not hasattr(model, "tt_adapters")
        assert all(p.requires_grad for p in model.parameters())

    def test_unknown_family(self) -> None:
        with pytest.raises(ValueError, match="targets: Sequential has no attention and feed-forward"):
            add_tt_adapters(own_model())

    def test_width_cannot_be_told(self) -> None:
        with pytest.raises(ValueError, match=r"hidden: the width of the output of 0.mix \(Mix\)"):
            add_tt_adapters(own_model(), targets=["mix"])

    def test_wrong_width(self) -> None:
        model = own_model()
        add_tt_adapters(model, 8, targets=["mix"], hidden=60)
        with pytest.raises(ValueError, match="hidden = 60 features"):
            model(torch.ones(2, 61))

    def test_output_without_a_tensor(self) -> None:
        class Odd(nn.Module):
            def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
                return {"x": x}

        model = nn.Sequential(Odd())
        add_tt_adapters(model, 4, targets=["0"], hidden=8)
        with pytest.raises(TypeError, match="targets: Odd returns a dict"):
            model(torch.ones(2, 8))

    def test_twice(self) -> None:
        model = make("gpt2")
        add_tt_adapters(model, 8)
        with pytest.raises(ValueError, match="model has TT adapters already"):
            add_tt_adapters(model, 8)

    def test_none_to_remove(self) -> None:
        with pytest.raises(ValueError, match=r"model \(GPT2LMHeadModel\) has no TT adapters"):
            remove_tt_adapters(make("gpt2"))

    def test_options_are_checked_before_the_model_is_touched(self) -> None:
        model = make("gpt2")
        with pytest.raises(ValueError, match="rank must be a positive integer, got 0"):
            add_tt_adapters(model, 8, rank=0)
        assert all(p.requires_grad for p in model.parameters())
        assert not any(isinstance(m, TTAdapter) for m in model.modules())
