"""`restore="exact"`: base weights are never displaced, and no weight is silently left unperturbed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zokern
from tests.optim.conftest import Passes
from tests.optim.problems import EPS, LR, Bowl, same, values
from tests.optim.readers import MODULES, Attention, Encoder, FastAttention, ModuleHead
from zokern.optim import MeZO
from zokern.optim.restore_exact import Exact

STEPS = 10_000


def exact(optimizer: MeZO) -> Exact:
    assert isinstance(optimizer.engine, Exact)
    return optimizer.engine


def test_ten_thousand_bf16_steps_at_lr_zero_leave_every_bit() -> None:
    """Beside it, what the plain loop (+eps, -2 eps, +eps in place) does to the same weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).bfloat16()
    plain = copy.deepcopy(model)
    x = torch.randn(2, 8).bfloat16()
    start, eps = values(model), 1e-3

    optimizer = MeZO(model, lr=0.0, eps=eps, restore="exact")
    seen = set()
    for _ in range(STEPS):
        seen.add(optimizer.step(lambda: model(x).float().sum()))
    assert same(values(model), start)
    assert len(seen) > 10  # it did move while it looked

    params = list(plain.parameters())
    with torch.no_grad():
        for step in range(STEPS):
            seed = zokern.derive_seed(0, step)
            for scale in (eps, -2 * eps, eps):
                zokern.perturb_(params, seed, scale)
    drift = torch.cat([(p.detach() - w).float().flatten() for p, w in zip(params, start)])
    size = torch.cat([w.float().flatten() for w in start])
    relative = float(drift.square().mean().sqrt() / size.square().mean().sqrt())
    print(f"\nin-place drift of the plain loop, {STEPS} steps in bf16: {relative:.1%} of rms |w|")
    assert relative > 0.01


@pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_sees_every_weight_perturbed(kind: type[nn.Module], dtype: torch.dtype) -> None:
    """The losses and weights are those of a snapshot, bit for bit, from the first evaluation on."""
    torch.manual_seed(0)
    model = kind().to(dtype)
    twin = copy.deepcopy(model)
    for module in twin.modules():
        module.register_forward_hook(lambda *_: None)  # hooks switch some fused paths off
    x = torch.randn(2, 3, 8).to(dtype)

    def closure_of(module: nn.Module) -> Callable[[], Tensor]:
        return lambda: module(x).float().square().mean()

    optimizer = MeZO(model, 1e-3, EPS, restore="exact", num_queries=2)
    snapshot = MeZO(twin, 1e-3, EPS, restore="snapshot", num_queries=2)
    for _ in range(3):
        assert optimizer.step(closure_of(model)) == snapshot.step(closure_of(twin))
        assert optimizer.last.losses == snapshot.last.losses
        assert same(values(model), values(twin))
    assert exact(optimizer).covered == MODULES[kind]
    # one evaluation, or the 1st, 2nd, 4th and 8th of the 12
    attention = issubclass(kind, (Attention, Encoder))
    assert exact(optimizer).repeated == (5 if attention else bool(MODULES[kind]))


class Blocks(nn.Module):
    """A large embedding, beside which a whole block is small and perturbed in one call: one block is
    called as a module, one is only a holder whose parts are called."""

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.norm = FastAttention(), nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.attention(x))

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 8)
        self.block, self.holder = self.Block(), self.Holder()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.embed(x[..., 0].abs().long())
        return self.holder.down(self.holder.up(self.block(x)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_blocks_perturbed_in_one_call(dtype: torch.dtype, passes: Passes) -> None:
    """Attention inside takes its fused path in eval mode, which a watched evaluation switches off."""
    torch.manual_seed(0)
    model = Blocks().to(dtype)
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if not isinstance(module, nn.MultiheadAttention):
            module.register_forward_hook(lambda *_: None)
    x = torch.randn(2, 3, 8).to(dtype)
    optimizer = MeZO(model, 1e-3, EPS, restore="exact")
    snapshot = MeZO(twin, 1e-3, EPS, restore="snapshot")
    for _ in range(5):
        optimizer.step(lambda: model(x).float().square().mean())
        snapshot.step(lambda: twin(x).float().square().mean())
        assert optimizer.last.losses == snapshot.last.losses
    assert not exact(optimizer).covered
    passes.clear()
    optimizer.step(lambda: model(x).float().square().mean())
    assert passes.count == 2 * 4 + 1  # embedding, block, up, down


FAMILIES: dict[str, tuple[str, dict[str, int], set[str]]] = {
    "llama-tied": ("Llama", {"num_attention_heads": 4, "tie_word_embeddings": True}, set()),
    "gpt2-conv1d": ("GPT2", {"n_head": 4, "n_positions": 16}, set()),
    # its mixer reads the convolution's and the step projection's weights itself
    "mamba": ("Mamba", {"state_size": 4}, {"conv1d", "dt_proj"}),
}


@pytest.mark.parametrize("family, options, covered", FAMILIES.values(), ids=FAMILIES.keys())
def test_language_models(family: str, options: dict[str, int], covered: set[str]) -> None:
    transformers = pytest.importorskip("transformers")
    names = {"GPT2": "GPT2LMHeadModel"}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, **options
    )
    torch.manual_seed(0)
    model = getattr(transformers, names.get(family, f"{family}ForCausalLM"))(config).bfloat16()
    model.eval()
    twin = copy.deepcopy(model)
    tokens = torch.arange(16).view(2, 8)

    def closure_of(module: nn.Module) -> Callable[[], Tensor]:
        return lambda: module(input_ids=tokens, labels=tokens).loss

    optimizer = MeZO(model, 1e-3, EPS, restore="exact")
    snapshot = MeZO(twin, 1e-3, EPS, restore="snapshot")
    for _ in range(3):
        optimizer.step(closure_of(model))
        snapshot.step(closure_of(twin))
        assert optimizer.last.losses == snapshot.last.losses
    assert same(values(model), values(twin))
    assert {name.split(".")[-2] for name in exact(optimizer).covered} == covered


def test_a_read_that_begins_later_is_found() -> None:
    """A branch taken for the first time in a later step: its weight was due and not swapped in."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
            self.direct = False

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return F.linear(x, self.second.weight) if self.direct else self.second(x)

    torch.manual_seed(0)
    model = Branches()
    twin = copy.deepcopy(model)
    x = torch.randn(4, 8)
    optimizer = MeZO(model, 1e-3, EPS, restore="exact")
    snapshot = MeZO(twin, 1e-3, EPS, restore="snapshot")
    for step in range(6):
        model.direct = twin.direct = step >= 3
        optimizer.step(lambda: model(x).square().mean())
        snapshot.step(lambda: twin(x).square().mean())
        assert optimizer.last.losses == snapshot.last.losses
    assert exact(optimizer).covered == ["second.weight"]


def test_memory_shared_with_numpy_is_read_unseen_and_that_is_told() -> None:
    """A closure that reads weights behind PyTorch's back sees the committed ones."""
    model = nn.Linear(3, 2, bias=False)
    optimizer = MeZO(model, 1e-3, EPS, restore="exact")
    memory = model.weight.detach().numpy()
    with pytest.warns(RuntimeWarning, match="the closure does not read the trained weights"):
        for _ in range(3):
            optimizer.step(lambda: float((memory**2).sum()))
    snapshot = MeZO(model, 1e-3, EPS, restore="snapshot")
    snapshot.step(lambda: float((memory**2).sum()))
    assert len(set(snapshot.last.losses)) == 2


def test_a_caught_exception_inside_the_model_restores_its_module() -> None:
    """A model that catches a child's error and goes on reads the child's base weights after that."""

    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no")

    class Catches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.child, self.other = Fails(), nn.Linear(8, 8)
            self.addresses: set[bool] = set()

        def forward(self, x: Tensor) -> Tensor:
            base = self.child.weight.data_ptr()
            try:
                self.child(x)
            except ValueError:
                self.addresses.add(self.child.weight.data_ptr() == base)
            return self.other(x)

    model = Catches()
    optimizer = MeZO(model, 1e-3, EPS, restore="exact")
    for _ in range(3):
        optimizer.step(lambda: model(torch.ones(2, 8)).mean())
    assert model.addresses == {True}
    assert not exact(optimizer).frames


def test_parameters_keep_identity_memory_and_grad() -> None:
    model = Bowl()
    before = [(id(p), p.data_ptr()) for p in model.parameters()]
    optimizer = MeZO(model, LR, EPS, restore="exact")
    optimizer.step(model)
    assert [(id(p), p.data_ptr()) for p in model.parameters()] == before
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_scratch_is_as_large_as_the_largest_module() -> None:
    model = nn.Sequential(*(nn.Linear(n, n, bias=False) for n in (16, 64, 32)))
    x = torch.ones(1, 16)

    def closure() -> Tensor:
        y = model[0](x)
        return model[1](y.repeat(1, 4)).mean() + model[2](y.repeat(1, 2)).mean()

    optimizer = MeZO(model, 1e-3, EPS, restore="exact")
    optimizer.step(closure)
    (buffer,) = exact(optimizer).scratch.buffers.values()
    assert buffer.numel() == 64 * 64 * 4
    kept = buffer.data_ptr()
    optimizer.step(closure)
    (buffer,) = exact(optimizer).scratch.buffers.values()
    assert buffer.data_ptr() == kept
    assert not exact(optimizer).cover.held


def test_strided_weights_keep_their_memory_format() -> None:
    model = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    strides = []
    model.register_forward_pre_hook(lambda m, a: strides.append(m.weight.stride()))
    optimizer = MeZO(model, 1e-3, EPS, restore="exact")
    optimizer.step(lambda: model(torch.ones(1, 4, 5, 5)).mean())
    assert set(strides) == {model.weight.stride()}


def test_what_is_covered_survives_a_state_round_trip() -> None:
    """The resumed run repeats no evaluation, so a closure with dropout draws the same masks."""
    torch.manual_seed(0)
    model, again = Attention(), Attention()
    x = torch.randn(2, 3, 8)
    optimizer = MeZO(model, 1e-3, EPS, restore="exact")
    optimizer.step(lambda: model(x).mean())
    assert exact(optimizer).evaluations == 2
    resumed = MeZO(again, 1e-3, EPS, restore="exact")
    resumed.load_state_dict(optimizer.state_dict())
    again.load_state_dict(model.state_dict())
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        return again(x).mean()

    resumed.step(closure)
    assert calls == 2 + 1  # the 4th evaluation is watched
    assert exact(resumed).covered == MODULES[Attention]


def test_a_deep_copy_of_the_model_is_free_of_hooks_that_act() -> None:
    model = Bowl()
    optimizer = MeZO(model, LR, EPS, restore="exact")
    copied: list[nn.Module] = []

    def closure() -> Tensor:
        if not copied:
            copied.append(copy.deepcopy(model))
        return model() + 0 * copied[0]()

    optimizer.step(closure)
    assert same(values(copied[0]), values(Bowl()))  # copied outside any forward: the base weights


def test_auto_takes_exact_for_sixteen_bits_with_a_module() -> None:
    cases: list[tuple[Any, Any, str]] = [
        (Bowl(), None, "inplace"),
        (Bowl(torch.float64), None, "inplace"),
        (Bowl(torch.bfloat16), None, "exact"),
        (Bowl(torch.float16), None, "exact"),
        (Bowl(torch.bfloat16).parameters(), None, "snapshot"),
        ([{"params": list((b := Bowl(torch.bfloat16)).parameters())}], b, "exact"),
        (torch.compile(Bowl(torch.bfloat16), backend="eager"), None, "snapshot"),
    ]
    for params, module, expected in cases:
        assert MeZO(params, LR, EPS, module=module).restore == expected
    adapted = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 1)).bfloat16()
    adapted[0].requires_grad_(False)
    assert MeZO(adapted, LR, EPS).restore == "snapshot"


def test_exact_needs_the_module() -> None:
    with pytest.raises(ValueError, match="restore='exact' needs the module"):
        MeZO(Bowl().parameters(), LR, EPS, restore="exact")


def test_passes_of_a_tied_weight(passes: Passes) -> None:
    """However many modules read it, its perturbed copy is made once an evaluation."""
    model = ModuleHead()
    optimizer = MeZO(model, 1e-3, EPS, restore="exact")
    optimizer.step(lambda: model(torch.ones(1, 1, 8)).mean())
    passes.clear()
    optimizer.step(lambda: model(torch.ones(1, 1, 8)).mean())
    assert passes.elements == (2 + 1) * 40
