"""`lazy=True`: what is pending lands before the module is used or saved in any ordinary way."""

from __future__ import annotations

import copy
import gc
import io
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.optim.problems import EPS, LR, RESTORES, Bowl, same, values
from zokern.optim import MeZO

lazies = pytest.mark.parametrize(
    "restore", [RESTORES["inplace-lazy"], RESTORES["snapshot-lazy"]], ids=["inplace", "snapshot"]
)


def pair(restore: dict[str, Any], steps: int = 2) -> tuple[Bowl, MeZO, list[Tensor]]:
    """A model with an update pending, its optimizer, and the weights it is to have."""
    model, twin = Bowl(), Bowl()
    optimizer, reference = MeZO(model, LR, EPS, **restore), MeZO(twin, LR, EPS, **restore)
    for _ in range(steps):
        optimizer.step(model)
        reference.step(twin)
    reference.flush()
    assert optimizer.engine.pending
    assert not same(values(model), values(twin))  # so that the tests below can fail
    return model, optimizer, values(twin)


USES: dict[str, Callable[[Bowl], Any]] = {
    "forward": lambda model: model(),
    "forward-without-grad": lambda model: torch.no_grad()(model)(),
    "forward-in-inference-mode": lambda model: torch.inference_mode()(model)(),
    "forward-of-a-submodule": lambda model: model.inner(),
    "eval-forward": lambda model: model.eval()(),
    "state_dict": lambda model: model.state_dict(),
    "state_dict-of-a-submodule": lambda model: model.inner.state_dict(),
    "torch.save": lambda model: torch.save(model, io.BytesIO()),
    "deepcopy": copy.deepcopy,
}


@lazies
@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_using_the_module_lands_what_is_pending(restore: dict[str, Any], use: Callable[[Bowl], Any]) -> None:
    model, optimizer, expected = pair(restore)
    use(model)
    assert same(values(model), expected)
    assert not optimizer.engine.pending
    optimizer.step(model)


@lazies
def test_what_a_forward_and_a_state_dict_give_is_the_updated_weights(
    restore: dict[str, Any],
) -> None:
    model, _, expected = pair(restore)
    reference = Bowl()
    with torch.no_grad():
        for p, w in zip(reference.parameters(), expected):
            p.copy_(w)
    assert float(model().detach()) == float(reference().detach())
    model, _, expected = pair(restore)
    assert same(list(model.state_dict().values()), expected)


@lazies
def test_a_deep_copy_has_the_updated_weights_and_no_optimizer(restore: dict[str, Any]) -> None:
    """Also the parameters that were copied before the first hook was."""
    model, optimizer, expected = pair(restore)
    copied = copy.deepcopy(model)
    assert same(values(copied), expected)
    optimizer.step(model)
    pending = values(model)
    copied()
    copied.state_dict()
    assert same(values(model), pending)
    assert same(values(copied), expected)


@lazies
def test_a_saved_module_has_the_updated_weights(restore: dict[str, Any]) -> None:
    model, _, expected = pair(restore)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert same(values(loaded), expected)
    loaded()


@lazies
def test_loading_weights_drops_nothing_onto_them(restore: dict[str, Any]) -> None:
    """Without the hook, the pending restore would land on top of the loaded weights."""
    model, optimizer, _ = pair(restore)
    fresh = Bowl()
    model.load_state_dict(fresh.state_dict())
    optimizer.flush()
    assert same(values(model), values(fresh))


@lazies
def test_flush_close_and_leaving_the_context_land(restore: dict[str, Any]) -> None:
    model, optimizer, expected = pair(restore)
    optimizer.flush()
    assert same(values(model), expected)
    model, optimizer, expected = pair(restore)
    optimizer.state_dict()
    assert same(values(model), expected)
    model, optimizer, expected = pair(restore)
    optimizer.close()
    assert same(values(model), expected)
    with pytest.raises(RuntimeError, match="this MeZO is closed"):
        optimizer.step(model)
    model, twin = Bowl(), Bowl()
    with MeZO(model, LR, EPS, **restore) as optimizer:
        optimizer.step(model)
    reference = MeZO(twin, LR, EPS, **restore)
    reference.step(twin)
    reference.flush()
    assert same(values(model), values(twin))


def hooks_of(model: nn.Module) -> int:
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_state_dict_pre_hooks")
    kinds = (*kinds, "_load_state_dict_pre_hooks", "_forward_hooks_always_called")
    return sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds)


@pytest.mark.parametrize("restore", RESTORES.values(), ids=RESTORES.keys())
def test_hooks_go_with_the_optimizer(restore: dict[str, Any]) -> None:
    model = Bowl()
    assert not hooks_of(model)
    optimizer = MeZO(model, LR, EPS, **restore)
    hooked = restore.get("lazy") or restore["restore"] == "exact"
    assert bool(hooks_of(model)) == bool(hooked)
    optimizer.close()
    assert not hooks_of(model)
    optimizer = MeZO(model, LR, EPS, **restore)
    optimizer.step(model)
    landed, twin = Bowl(), Bowl()
    reference = MeZO(twin, LR, EPS, **restore)
    reference.step(twin)
    reference.flush()
    del optimizer, landed
    gc.collect()
    assert not hooks_of(model)
    assert same(values(model), values(twin))  # dropped with an update pending: it landed


@pytest.mark.parametrize("restore", RESTORES.values(), ids=RESTORES.keys())
def test_nothing_leaks(restore: dict[str, Any]) -> None:
    """Neither keeps the other alive, nor the engine either of them."""
    model = Bowl()
    optimizer = MeZO(model, LR, EPS, **restore)
    optimizer.step(model)
    kept, engine = weakref.ref(optimizer), weakref.ref(optimizer.engine)
    del optimizer
    gc.collect()
    assert kept() is None and engine() is None
    optimizer = MeZO(model, LR, EPS, **restore)
    optimizer.step(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    del optimizer


def test_lazy_needs_the_module() -> None:
    model = Bowl()
    with pytest.raises(ValueError, match="lazy=True needs the module"):
        MeZO(model.parameters(), LR, EPS, lazy=True)
    groups = [{"params": [model.first]}, {"params": [model.second], "lr": 0.0}]
    MeZO(groups, LR, EPS, lazy=True, module=model).step(model)
    with pytest.raises(ValueError, match="module does not contain the parameter"):
        MeZO([nn.Parameter(torch.ones(2))], LR, EPS, lazy=True, module=model)


def test_lazy_and_landed_walk_the_same_way() -> None:
    """To rounding: the fused pass rounds once where two passes round twice."""
    model, twin = Bowl(), Bowl()
    lazy, landed = MeZO(model, LR, EPS, lazy=True), MeZO(twin, LR, EPS)
    for _ in range(20):
        assert lazy.step(model) == pytest.approx(landed.step(twin), rel=1e-4)
    lazy.flush()
    for p, w in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(p, w, rtol=1e-4, atol=1e-4)


def test_evaluating_between_steps_changes_no_step() -> None:
    model, twin = Bowl(), Bowl()
    watched, alone = MeZO(model, LR, EPS, lazy=True), MeZO(twin, LR, EPS)
    for _ in range(5):
        watched.step(model)
        alone.step(twin)
        assert float(model().detach()) == pytest.approx(float(twin().detach()), rel=1e-6)


def test_a_closure_that_runs_no_hook_gives_lazy_up() -> None:
    """As a module that was compiled and called before: nothing would land before it is used."""
    model = nn.Linear(2, 1)
    x = torch.ones(3, 2)
    optimizer = MeZO(model, LR, EPS, lazy=True)
    with pytest.warns(RuntimeWarning, match="lazy=True is given up"):
        optimizer.step(lambda: model.forward(x).square().mean())
    assert not optimizer.engine.pending
    optimizer.step(lambda: model(x).square().mean())
    assert not optimizer.engine.pending


def test_save_pretrained(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    safetensors = pytest.importorskip("safetensors.torch")
    config = transformers.GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    tokens = torch.arange(8).view(1, 8)
    optimizer = MeZO(model, 1e-3, 1e-3, lazy=True)
    optimizer.step(lambda: model(input_ids=tokens, labels=tokens).loss)
    assert optimizer.engine.pending
    model.save_pretrained(tmp_path)
    assert not optimizer.engine.pending
    saved = safetensors.load_file(tmp_path / "model.safetensors")
    for name, value in saved.items():
        assert torch.equal(value, model.state_dict()[name])
    optimizer.step(lambda: model(input_ids=tokens, labels=tokens).loss)
    model.generate(tokens[:, :2], max_new_tokens=1, do_sample=False, pad_token_id=0)
    assert not optimizer.engine.pending


@pytest.mark.parametrize("compiled_first", [True, False])
@pytest.mark.parametrize("restore", ["inplace", "exact"])
def test_compiled_modules(compiled_first: bool, restore: str) -> None:
    """The compiled module is given to the optimizer, or compiled after; hooks act either way."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    twin = copy.deepcopy(model)
    x = torch.randn(5, 4)
    compiled = torch.compile(model, backend="eager")
    options = {"lazy": True, "restore": restore}
    optimizer = MeZO(compiled if compiled_first else model, 1e-2, EPS, **options)
    reference = MeZO(twin, 1e-2, EPS, **options)
    for _ in range(3):
        optimizer.step(lambda: compiled(x).square().mean())
        reference.step(lambda: twin(x).square().mean())
        assert optimizer.last.losses == reference.last.losses
        assert torch.equal(compiled(x), twin(x))
    torch._dynamo.reset()
