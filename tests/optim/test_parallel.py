"""Several copies in one forward: what a closure may do, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zokern
from tests.nn.families import FAMILIES, make, tokens
from zokern.nn import TTLinear, add_tt_adapters
from zokern.optim.engine import Trainables
from zokern.optim.moves import Point
from zokern.optim.parallel import BatchedCopies, linear_copies
from zokern.optim.perturbation import FullDirections

POINTS: list[Point] = [
    [{seed: sign * 1e-2}] for seed in (11, 12, 13) for sign in (1.0, -1.0)
]  # 2Q = 6, one param group
# what a method with an anchor visits: the weights themselves, and points of several directions
MIXED: list[Point] = [[{}], [{11: 1e-2}], [{11: 1e-2, 12: -2e-2, 13: 5e-3}], [{12: -1e-2, 11: 3e-3}]]
LABELS = torch.tensor([3, 5, 7])


def trainables(model: nn.Module) -> Trainables:
    chosen = [p for p in model.parameters() if p.requires_grad]
    return Trainables(chosen, [""] * len(chosen), [0] * len(chosen), 1)


def looped(model: nn.Module, closure: Callable[[], Any], points: list[Point] = POINTS) -> list[float]:
    """Each point by moving the weights themselves."""
    own = trainables(model).params
    kept = [p.detach().clone() for p in own]
    values = []
    with torch.no_grad():
        for point in points:
            seeds = [seed for seed in point[0] if isinstance(seed, int)]
            zokern.perturb_(own, seeds, list(point[0].values()))
            values.append(float(closure()))
            for p, k in zip(own, kept):
                p.copy_(k)
    return values


def batched(
    model: nn.Module, closure: Callable[[], Any], points: list[Point] = POINTS, **options: Any
) -> list[float]:
    copies = BatchedCopies(model, trainables(model), FullDirections("gaussian"), **options)
    with torch.no_grad(), copies.at(points):
        return [float(copies.run(closure, i)) for i in range(len(points))]


def adapted(family: str) -> nn.Module:
    model = make(family)
    flat = add_tt_adapters(model, 8, 3, bias=True).flat
    with torch.no_grad():
        flat.copy_(0.4 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(2)))
    return model


def loss_of(model: nn.Module, rows: int = 3) -> Callable[[], torch.Tensor]:
    ids = tokens(rows)

    def closure() -> torch.Tensor:
        out = model(ids).logits
        out = out[:, -1] if out.dim() == 3 else out
        return F.cross_entropy(out, LABELS[:rows] % out.shape[-1])

    return closure


@pytest.mark.parametrize("points", [POINTS, MIXED], ids=["one-seed", "several-seeds"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_parallel", [None, 4], ids=["at-once", "chunks-of-4"])
def test_losses_are_the_loops(family: str, max_parallel: int | None, points: list[Point]) -> None:
    model = adapted(family)
    expected = looped(model, loss_of(model), points)
    assert max(expected) - min(expected) > 1e-4
    actual = batched(model, loss_of(model), points, max_parallel=max_parallel)
    assert actual == pytest.approx(expected, abs=2e-6)
    assert looped(model, loss_of(model), points) == expected  # nothing was left behind


def test_one_row_and_one_copy() -> None:
    model = adapted("llama")
    for points in (POINTS, POINTS[:1]):
        expected = looped(model, loss_of(model, 1), points)
        assert batched(model, loss_of(model, 1), points) == pytest.approx(expected, abs=2e-6)


def test_one_forward_for_all_copies() -> None:
    model = adapted("llama")
    seen: list[tuple[int, ...]] = []
    model.model.embed_tokens.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    batched(model, loss_of(model))
    assert seen == [(18, 6)]
    seen.clear()
    batched(model, loss_of(model), max_parallel=4)
    assert seen == [(12, 6), (6, 6)]


def test_closure_is_called_as_in_a_loop() -> None:
    model, calls = adapted("gpt2"), [0]
    inner = loss_of(model)

    def closure() -> float:
        calls[0] += 1
        return inner().item()

    batched(model, closure)
    assert calls == [6]


def test_micro_batches_and_losses_of_any_kind() -> None:
    model, ids = adapted("bert"), tokens()

    def closure() -> float:
        right = 0.0
        for rows in (slice(0, 1), slice(1, 3)):
            out = model(input_ids=ids[rows], attention_mask=torch.ones_like(ids[rows])).logits
            right += float(out.softmax(-1)[:, 1].sum().square())  # not a mean, not differentiable
        return right

    assert batched(model, closure) == pytest.approx(looped(model, closure), rel=1e-5)


def test_adapters_of_a_sixteen_bit_model() -> None:
    model = adapted("llama").bfloat16()
    assert batched(model, loss_of(model)) == pytest.approx(looped(model, loss_of(model)), rel=2e-2)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # between peft and transformers
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lora_and_a_head(dtype: torch.dtype) -> None:
    """Modules that are plain linear layers: peft's A and B, and a classifier."""
    import peft

    model = make("bert")
    config = peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    model.classifier.requires_grad_(True)
    wrapped.to(dtype).eval()
    closure = loss_of(wrapped)
    expected = looped(wrapped, closure)
    assert max(expected) - min(expected) > 1e-4
    tolerance = 2e-6 if dtype == torch.float32 else 5e-2
    assert batched(wrapped, closure) == pytest.approx(expected, abs=tolerance)
    assert "forward" not in model.classifier.__dict__


def test_linear_copies_are_linear_layers() -> None:
    x, w, b = torch.randn(6, 4, 5), torch.randn(3, 7, 5), torch.randn(3, 7)
    for bias in (b, None):
        y = linear_copies(x, w, bias)
        for p in range(3):
            expected = F.linear(x[2 * p : 2 * p + 2], w[p], None if bias is None else bias[p])
            assert torch.allclose(y[2 * p : 2 * p + 2], expected, atol=1e-6)


def test_frozen_layers_are_shared() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(TTLinear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    model[0].requires_grad_(False)
    x, y = torch.randn(5, 12), torch.randint(4, (5,))

    def closure() -> torch.Tensor:
        return F.cross_entropy(model(x), y)

    assert batched(model, closure) == pytest.approx(looped(model, closure), abs=2e-6)


def test_mappings_in_and_out() -> None:
    class Classifies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
            out = self.linear(batch["x"][0]) * batch["factor"]
            return {"logits": [out], "note": "text"}

    model, x = Classifies(), torch.randn(5, 4)
    batch = {"x": (x, None), "factor": torch.tensor(2.0)}

    def closure() -> torch.Tensor:
        return model(batch)["logits"][0].square().mean()

    assert batched(model, closure) == pytest.approx(looped(model, closure), rel=1e-5)


class TestRefused:
    """Everything that would give another value than the loop, or none."""

    def test_a_loss_that_the_model_averages(self) -> None:
        model, ids = adapted("bert"), tokens()
        with pytest.raises(RuntimeError, match=r"returned a tensor of shape \(\).*no labels="):
            batched(model, lambda: model(ids, labels=torch.tensor([0, 1, 0])).loss)

    def test_a_part_of_the_model_on_its_own(self) -> None:
        model, ids = adapted("llama"), tokens()
        with pytest.raises(RuntimeError, match="must call the module that the optimizer was given"):
            batched(model, lambda: model.model(ids).last_hidden_state.mean())
        model(ids)  # and the model is usable again

    def test_inputs_that_depend_on_outputs(self) -> None:
        model, ids = adapted("llama"), tokens()

        def generate() -> float:
            longer = ids
            for _ in range(2):
                scores = model(longer).logits[:, -1] * 1e6
                longer = torch.cat([longer, scores.sum().long().remainder(61).expand(3, 1)], 1)
            return 0.0

        with pytest.raises(RuntimeError, match="other inputs than before"):
            batched(model, generate)

    def test_a_batch_drawn_inside(self) -> None:
        model = adapted("llama")
        with pytest.raises(RuntimeError, match="other inputs than before"):
            batched(model, lambda: model(torch.randint(3, 61, (3, 6))).logits.mean())

    def test_another_number_of_calls(self) -> None:
        model, ids, turns = adapted("llama"), tokens(), [0]

        def closure() -> float:
            turns[0] += 1
            for _ in range(turns[0]):
                model(ids)
            return 0.0

        with pytest.raises(RuntimeError, match="one call more than before"):
            batched(model, closure)
        with pytest.raises(RuntimeError, match="0 calls after 1"):
            batched(model, _once(model, ids))

    def test_batch_norm_in_training(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False))
        x = torch.randn(5, 4)
        with pytest.raises(RuntimeError, match="1 is a batch norm in training mode"):
            batched(model, lambda: model(x).square().mean())
        model.eval()
        assert len(batched(model, lambda: model(x).square().mean())) == 6

    def test_a_module_that_cannot_have_copies(self) -> None:
        model = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4))
        with pytest.raises(ValueError, match=r"evaluation='batched': 0 \(Embedding\) is trained"):
            BatchedCopies(model, trainables(model), FullDirections("gaussian"))


def _once(model: nn.Module, ids: torch.Tensor) -> Callable[[], float]:
    """Calls the model the first time only."""
    called: list[bool] = []

    def closure() -> float:
        if not called:
            called.append(True)
            model(ids)
        return 0.0

    return closure
