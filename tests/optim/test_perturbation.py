"""Perturbations given to any method: values that many optimizers share, bound to each; what does not move."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conftest import bits
from tests.optim.problems import EPS, LR, RESTORES, Bowl, same, values
from zokern.optim import (
    ZOSVRG,
    AdaZeta,
    Blocks,
    BlockSchedule,
    FullNoise,
    GivenMasks,
    MeZO,
    MeZOSVRG,
    Momentum,
    SmallWeights,
    SparseMeZO,
    ZOAdam,
    ZOAdaMax,
    ZOAdaMM,
    ZOAdaMU,
)

restores = pytest.mark.parametrize("restore", RESTORES.values(), ids=RESTORES.keys())
MASK = torch.arange(15).reshape(3, 5) % 3 == 0


def test_full_noise_is_the_default() -> None:
    model, same_model = Bowl(), Bowl()
    MeZO(model, LR, EPS).step(model)
    MeZO(same_model, LR, EPS, perturbation=FullNoise()).step(same_model)
    assert same(values(model), values(same_model))


def test_one_perturbation_serves_several_optimizers() -> None:
    """Each has thresholds, masks and blocks of its own."""
    kind = Blocks(BlockSchedule(by="tensor"), SmallWeights(0.5))
    model, other, alone = Bowl(), Bowl(), Bowl()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(3.0)
    first, second = (MeZO(m, LR / 4, EPS, perturbation=kind, restore="inplace") for m in (model, other))
    single = MeZO(alone, LR / 4, EPS, perturbation=kind, restore="inplace")
    for _ in range(4):
        second.step(other)
        assert first.step(model) == single.step(alone)
    assert same(values(model), values(alone))


def test_sparse_mezo_is_mezo_with_small_weights() -> None:
    model, twin = Bowl(), Bowl()
    blocks = BlockSchedule(active=2, by="tensor")
    preset = SparseMeZO(model, LR / 4, EPS, sparsity=0.5, blocks=blocks)
    spelled = MeZO(twin, LR / 4, EPS, perturbation=Blocks(blocks, SmallWeights(0.5)))
    assert preset.restore == spelled.restore == "exact"
    for _ in range(3):
        assert preset.step(model) == spelled.step(twin)
    assert same(values(model), values(twin))


RULES: dict[str, Any] = {
    "MeZO": lambda m, **o: MeZO(m, LR / 4, EPS, weight_decay=0.1, **o),
    "MeZO-momentum": lambda m, **o: MeZO(m, LR / 4, EPS, weight_decay=0.1, momentum=0.5, **o),
    "Adam": lambda m, **o: ZOAdam(m, LR / 4, EPS, weight_decay=0.1, **o),
    "AdaMax": lambda m, **o: ZOAdaMax(m, LR / 4, EPS, num_queries=2, **o),
    "AdaMM": lambda m, **o: ZOAdaMM(m, LR / 4, EPS, one_sided=True, **o),
    "AdaZeta": lambda m, **o: AdaZeta(m, LR / 4, EPS, schedule=2, **o),
    "SVRG": lambda m, **o: MeZOSVRG(m, LR / 4, EPS, lr_minibatch=LR / 8, interval=3, **o),
    "SVRG-copy": lambda m, **o: MeZOSVRG(m, LR / 4, EPS, lr_minibatch=LR / 8, interval=3, anchor="copy", **o),
    "ZO-SVRG": lambda m, **o: ZOSVRG(m, LR / 4, EPS, num_samples=2, interval=2, **o),
}


def take_step(optimizer: Any, model: Bowl) -> None:
    if isinstance(optimizer, ZOSVRG):
        optimizer.step(lambda sample: model(), samples=[1])
    elif isinstance(optimizer, MeZOSVRG):
        optimizer.step(model, full_closure=model)
    else:
        optimizer.step(model)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@restores
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_what_is_masked_keeps_its_bits(rule: Any, restore: dict[str, Any], dtype: torch.dtype) -> None:
    """Weights, moments and momentum outside a mask stay to the bit, in every rule and restore mode."""
    if "copy" in str(rule.__code__.co_consts) and restore["restore"] == "inplace":
        with pytest.raises(ValueError, match="anchor='copy'"):
            rule(Bowl(dtype), **restore)
        return
    model = Bowl(dtype)
    masks = {"first": MASK, "second": torch.zeros(7, dtype=torch.bool)}
    optimizer = rule(model, perturbation=GivenMasks(masks), **restore)
    start = values(model)
    for _ in range(5):
        take_step(optimizer, model)
    optimizer.flush()
    first, second, inner = values(model)
    assert torch.equal(bits(first)[~MASK], bits(start[0])[~MASK])
    assert (first != start[0])[MASK].any()
    assert same([second], [start[1]])
    assert (inner != start[2]).any()
    for state in (optimizer.state.get(model.first, {}), optimizer.state.get(model.second, {})):
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"):
            if name in state:
                outside = ~MASK if state[name].shape == MASK.shape else torch.ones(7, dtype=torch.bool)
                assert not state[name][outside].any()


@restores
def test_masks_of_an_interval_are_those_of_its_beginning(restore: dict[str, Any]) -> None:
    """Both terms of the correction, and the walk to the anchor, need one set of weights."""
    model = Bowl()
    optimizer = MeZOSVRG(
        model, LR, EPS, lr_minibatch=LR, interval=4, perturbation=SmallWeights(0.5), **restore
    )
    seen: list[list[torch.Tensor]] = []
    for step in range(8):
        optimizer.flush()
        before = values(model)
        optimizer.step(model, full_closure=model)
        optimizer.flush()
        moved = [a != b for a, b in zip(values(model), before)]
        seen.append([m.clone() for m in moved])
        if step % 4:
            assert all(torch.equal(a, b) for a, b in zip(seen[step], seen[step - step % 4]))
    assert not all(torch.equal(a, b) for a, b in zip(seen[0], seen[4]))


@pytest.mark.parametrize("period", [1, 2])
def test_blocks_take_turns_by_interval_where_a_choice_holds_for_several_steps(period: int) -> None:
    """Counted in steps, an interval of 3 over 3 blocks would meet the same block for ever."""
    model = Bowl()
    kind = Blocks(BlockSchedule(by="tensor", period=period))
    optimizer = MeZOSVRG(model, LR / 4, EPS, lr_minibatch=LR / 8, interval=3, perturbation=kind)
    for step in range(18):
        before = values(model)
        optimizer.step(model, full_closure=model)
        moved = [not same([a], [b]) for a, b in zip(values(model), before)]
        assert moved == [i == step // (3 * period) % 3 for i in range(3)]


def test_a_tensor_that_rests_does_not_count_its_steps() -> None:
    model = Bowl()
    optimizer = ZOAdam(model, LR, EPS, perturbation=Blocks(BlockSchedule(by="tensor")))
    for _ in range(4):
        optimizer.step(model)
    counts = [optimizer.state[p]["step"] if optimizer.state[p] else 0 for p in optimizer.trainables]
    assert counts == [2, 1, 1]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: MeZO(m, perturbation=0.75), TypeError, "perturbation must be a Perturbation, got 0.75"),
        (lambda m: MeZO(m, perturbation=SmallWeights), TypeError, "perturbation must be a Perturbation, got"),
        (lambda m: SmallWeights(1.0), ValueError, "sparsity must be a number >= 0 and < 1, got 1.0"),
        (lambda m: SmallWeights(0.5, refresh=0), ValueError, "refresh must be an integer >= 1, got 0"),
        (lambda m: Blocks(3), TypeError, "schedule must be a BlockSchedule, got 3"),
        (lambda m: Blocks(of=0.5), TypeError, "of must be a Perturbation, got 0.5"),
        (
            lambda m: ZOAdaMU(m, schedule=10, perturbation=SmallWeights()),
            TypeError,
            "perturbation must be Blocks",
        ),
        (
            lambda m: ZOAdaMU(m, schedule=10, distribution="rademacher"),
            TypeError,
            "distribution='rademacher'",
        ),
        (lambda m: ZOSVRG(m, num_samples=2, num_queries=3), TypeError, "num_queries=3"),
        (
            lambda m: MeZO([{"params": [m.first], "sparsity": 2}], perturbation=SmallWeights()),
            ValueError,
            "sparsity must be a number >= 0 and < 1, got 2",
        ),
    ],
)
def test_refuses(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(Bowl())


def test_momentum_is_no_one_elses() -> None:
    """Only ZO-AdaMU writes m: others would perturb along nothing."""
    with pytest.raises(TypeError, match="perturbation must not be Momentum"):
        MeZO(Bowl(), perturbation=Momentum(lambda t: (1.0, 1.0, 1.0)))
    with pytest.raises(TypeError, match="perturbation must not be Momentum"):
        ZOAdam(Bowl(), perturbation=Blocks(of=Momentum(lambda t: (1.0, 1.0, 1.0))))


def test_names_of_version_0_1_are_taken_with_a_warning() -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.warns(DeprecationWarning, match="queries='parallel' is now evaluation='batched'"):
        assert AdaZeta(model, queries="parallel").evaluation == "batched"  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match="snapshot='copy' is now anchor='copy'"):
        assert MeZOSVRG(Bowl(), snapshot="copy").anchor == "copy"  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="snapshot is the former name of anchor"):
        ZOSVRG(Bowl(), num_samples=2, snapshot="copy", anchor="copy")  # type: ignore[call-arg]
