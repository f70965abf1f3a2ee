"""SparseMeZO: one mask in probe, flip and update, that of the committed weights; explicit masks; blocks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zokern
from tests.conftest import bits
from tests.optim.problems import RESTORES, Bowl, same, values
from zokern.optim import BlockSchedule, SparseMeZO
from zokern.optim.perturb_masked import threshold

EPS = 2.0**-7
restores = pytest.mark.parametrize("restore", RESTORES.values(), ids=RESTORES.keys())


class Watched(nn.Module):
    """One layer, whose weight is noted as each forward reads it."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.layer = nn.Linear(40, 30, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(zokern.normal((30, 40), 5))
        self.to(dtype)
        self.seen: list[Tensor] = []
        self.layer.register_forward_hook(lambda layer, *_: self.seen.append(layer.weight.detach().clone()))

    def forward(self) -> Tensor:
        return self.layer(torch.linspace(-1, 1, 40, dtype=self.layer.weight.dtype)).float().square().sum()


# -- the mask ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@restores
def test_probe_flip_and_update_share_the_mask_of_the_committed_weights(
    restore: dict[str, Any], dtype: torch.dtype
) -> None:
    """eps is half of the threshold: a mask of the displaced weights, which many leave or enter between
    probe and flip, would show."""
    if dtype == torch.bfloat16 and restore["restore"] == "inplace":
        pytest.skip("16-bit weights drift when moved in place")
    model = Watched(dtype)
    optimizer = SparseMeZO(model, 2e-3, 0.25, sparsity=0.6, **restore)
    for step in range(4):
        optimizer.flush()
        before = model.layer.weight.detach().clone()
        model.seen.clear()
        optimizer.step(model)
        optimizer.flush()
        chosen = before.double().abs() <= optimizer.thresholds["layer.weight"]
        assert 0.2 < chosen.double().mean() < 0.6
        z = zokern.normal(before.shape, zokern.derive_seed(0, step))
        plus, minus = model.seen[-2:]  # a watched evaluation may have run twice
        crossed = 0
        for sign, probe in ((1, plus), (-1, minus)):
            moved = torch.where(chosen, (before + sign * 0.25 * z).to(dtype), before)
            torch.testing.assert_close(
                probe, moved, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6
            )
            assert torch.equal(bits(probe)[~chosen], bits(before)[~chosen])
            crossed += int((chosen & (probe.abs() > optimizer.thresholds["layer.weight"])).sum())
        assert crossed > 50
        after = model.layer.weight.detach()
        assert torch.equal(bits(after)[~chosen], bits(before)[~chosen])
        assert (after != before)[chosen].double().mean() > 0.9


@restores
def test_the_mask_follows_the_weights_and_thresholds_only_a_refresh(restore: dict[str, Any]) -> None:
    model, fresh = Watched(), Watched()
    optimizer = SparseMeZO(model, 2e-3, 0.25, **restore)
    refreshed = SparseMeZO(fresh, 2e-3, 0.25, refresh=2, **restore)
    kept, found = [], []
    for _ in range(4):
        optimizer.step(model), refreshed.step(fresh)
        kept += optimizer.thresholds.values()
        found += refreshed.thresholds.values()
    assert len(set(kept)) == 1
    assert found[0] == found[1] == kept[0]
    assert found[2] == found[3] != kept[0]


def test_sparsity_zero_is_mezo_and_groups_have_their_own() -> None:
    model, plain, mixed = Bowl(), Bowl(), Bowl()
    zokern.optim.MeZO(plain, 0.01, EPS, restore="exact").step(plain)
    SparseMeZO(model, 0.01, EPS, sparsity=0.0, restore="exact").step(model)
    assert same(values(model), values(plain))
    groups = [{"params": [mixed.first], "sparsity": 0.0}, {"params": [mixed.second, mixed.inner.weight]}]
    optimizer = SparseMeZO(groups, 0.01, EPS, module=mixed)
    start = values(mixed)
    optimizer.step(mixed)
    moved = [int((a != b).sum()) for a, b in zip(values(mixed), start)]
    assert moved == [15, 2, 3]  # all of 15; a quarter of 7 and of 9, rounded up


def test_thresholds_are_kept_in_the_state() -> None:
    model, again = Watched(), Watched()
    optimizer = SparseMeZO(model, 2e-3, 0.25)
    optimizer.step(model)
    with torch.no_grad():
        for each in (model, again):  # other weights, which would give another threshold
            each.layer.weight.mul_(0.5)
    again.load_state_dict(model.state_dict())
    resumed = SparseMeZO(again, 2e-3, 0.25)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.step(again) == optimizer.step(model)
    assert resumed.thresholds == optimizer.thresholds
    assert same(values(again), values(model))


# -- thresholds -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sparsity", [0.01, 0.5, 0.75, 0.999])
def test_the_threshold_is_the_order_statistic(dtype: torch.dtype, sparsity: float) -> None:
    for n in (1, 3, 4, 5, 1000):
        w = zokern.normal(n, 1).to(dtype)
        ordered = w.float().abs().sort().values
        kept = max(1, -(-n * round(1000 * (1 - sparsity)) // 1000))  # ceil, in integers
        assert threshold(w, sparsity) == ordered[kept - 1].item()


def test_thresholds_of_odd_weights() -> None:
    strided = zokern.normal((30, 40), 2)
    assert threshold(strided.t()[::3], 0.5) == threshold(strided.t()[::3].contiguous(), 0.5)
    assert threshold(torch.zeros(7), 0.5) == 0.0
    assert threshold(torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.75) == 1.0  # ties all move
    assert threshold(torch.tensor([1.0, torch.inf, -torch.inf, torch.nan]), 0.5) == torch.inf
    assert threshold(torch.full((4,), torch.nan), 0.5) == torch.inf  # NaN is never chosen all the same
    large = zokern.normal((1 << 20) + 3, 3)  # more than one piece
    assert threshold(large, 0.75) == large.abs().sort().values[-(-large.numel() // 4) - 1].item()


# -- explicit masks ---------------------------------------------------------------------------


@restores
def test_explicit_masks_move_what_they_name(restore: dict[str, Any]) -> None:
    model = Bowl()
    masks = {"first": torch.arange(15).reshape(3, 5) % 2 == 0, 2: torch.zeros(9, dtype=torch.bool)}
    optimizer = SparseMeZO(model, 1e-3, EPS, masks=masks, weight_decay=0.1, **restore)
    start = values(model)
    for _ in range(3):
        optimizer.step(model)
    optimizer.flush()
    first, second, inner = values(model)
    assert torch.equal(first != start[0], masks["first"])
    assert (second != start[1]).all()
    assert same([inner], [start[2]])


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ({"third": torch.ones(7, dtype=torch.bool)}, ValueError, r"masks\['third'\] names no trainable"),
        (
            {"second": torch.ones(7)},
            TypeError,
            r"masks\['second'\] must be a boolean tensor, got torch.float32",
        ),
        ({1: torch.ones(8, dtype=torch.bool)}, ValueError, r"masks\[1\] has shape \(8,\), not \(7,\)"),
    ],
)
def test_masks_are_checked(masks: dict[Any, Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SparseMeZO(Bowl(), masks=masks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, "sparsity must be a number >= 0 and < 1, got 1.0"),
        ({"refresh": 0}, "refresh must be an integer >= 1, got 0"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseMeZO(Bowl(), **options)


# -- blocks -----------------------------------------------------------------------------------


def test_cyclic_blocks_take_turns() -> None:
    assert [BlockSchedule().choose(3, t) for t in range(4)] == [(0,), (1,), (2,), (0,)]
    assert [BlockSchedule(active=2, period=2).choose(3, t) for t in range(5)] == [
        (0, 1),
        (0, 1),
        (0, 2),
        (0, 2),
        (1, 2),
    ]
    assert BlockSchedule(active=9).choose(3, 0) == (0, 1, 2)


def test_random_blocks_are_drawn_alike_and_from_step_and_seed_alone() -> None:
    schedule = BlockSchedule(active=2, order="random")
    counts = Counter(block for t in range(3000) for block in schedule.choose(5, t))
    # each block is in a draw with 2/5: five standard errors of 3000 draws
    assert all(abs(n - 1200) < 5 * (3000 * 0.4 * 0.6) ** 0.5 for n in counts.values())
    assert all(len(set(schedule.choose(5, t))) == 2 for t in range(50))
    assert [schedule.choose(5, t) for t in range(9)] == [schedule.choose(5, t) for t in range(9)]
    other = BlockSchedule(active=2, order="random", seed=1)
    assert [schedule.choose(5, t) for t in range(9)] != [other.choose(5, t) for t in range(9)]


def test_blocks_by_layer_group_tensor_or_name() -> None:
    names = ["embed.weight", "layers.0.a", "layers.0.b", "layers.10.a", "layers.1.a", "norm.weight"]
    assert BlockSchedule().blocks(names, [0] * 6) == [0, 1, 1, 2, 3, 0]
    assert BlockSchedule(by="group").blocks(names, [0, 1, 0, 1, 0, 1]) == [0, 1, 0, 1, 0, 1]
    assert BlockSchedule(by="tensor").blocks(names, [0] * 6) == [0, 1, 2, 3, 4, 5]
    assert BlockSchedule(by=lambda name: name[-1]).blocks(names, [0] * 6) == [0, 1, 2, 1, 1, 0]


@restores
def test_only_active_blocks_are_perturbed_updated_and_decayed(restore: dict[str, Any]) -> None:
    """The mask and the decay of a pending update are those of its own step, whose blocks are over."""
    model, lazily = Bowl(), Bowl()
    blocks = BlockSchedule(by="tensor")
    options: dict[str, Any] = {"sparsity": 0.0, "blocks": blocks, "weight_decay": 0.5}
    optimizer = SparseMeZO(model, 1e-3, EPS, **options, restore=restore["restore"])
    other = SparseMeZO(lazily, 1e-3, EPS, **options, **restore)
    for step in range(5):
        before = values(model)
        assert optimizer.active == (step % 3,)
        optimizer.step(model), other.step(lazily)
        moved = [not same([a], [b]) for a, b in zip(values(model), before)]
        assert moved == [i == step % 3 for i in range(3)]
    other.flush()
    for found, expected in zip(values(lazily), values(model)):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_blocks_and_thresholds_combine() -> None:
    model = Bowl()
    optimizer = SparseMeZO(model, 1e-3, EPS, sparsity=0.75, blocks=BlockSchedule(by="tensor"))
    start = values(model)
    optimizer.step(model)
    assert [int((a != b).sum()) for a, b in zip(values(model), start)] == [4, 0, 0]
    optimizer.step(model)
    assert [int((a != b).sum()) for a, b in zip(values(model), start)] == [4, 2, 0]
