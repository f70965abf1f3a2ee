"""`perturb_masked_`: chosen elements get `perturb_`'s bits, the others keep their own."""

from __future__ import annotations

import pytest
import torch

import zokern
from tests.conftest import Backend, assert_same_bits, bits
from tests.ops.test_perturb import DTYPES, name_of, values

MOVE = {"seeds": [3, 5], "scales": [0.1, -1.0], "decay": 0.9}


def moved(p: torch.Tensor, **keywords: object) -> torch.Tensor:
    result = p.clone()
    zokern.perturb_([result], **MOVE, **keywords)
    return result


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_small_elements_move_as_in_perturb_and_others_not_at_all(
    backend: Backend, dtype: torch.dtype, rounding: str
) -> None:
    p = values(1000, dtype).to(backend.device)
    for threshold in (0.0, 1e-4, 0.1, float("inf")):
        result = p.clone()
        zokern.perturb_masked_([result], **MOVE, thresholds=threshold, rounding=rounding)
        small = p.double().abs() <= torch.tensor(threshold).double().item()
        assert_same_bits(result, torch.where(small, moved(p, rounding=rounding), p))


def test_threshold_and_mask_choose_alike(backend: Backend) -> None:
    params = [values(n, torch.float32, n).to(backend.device) for n in (300, 17)]
    by_threshold, by_mask = ([p.clone() for p in params] for _ in range(2))
    zokern.perturb_masked_(by_threshold, **MOVE, thresholds=[0.01, 2.0])
    masks = [p.abs() <= limit for p, limit in zip(params, (0.01, 2.0))]
    zokern.perturb_masked_(by_mask, **MOVE, masks=masks)
    for a, e in zip(by_threshold, by_mask):
        assert_same_bits(a, e)
    assert any(not m.all() for m in masks) and all(m.any() for m in masks)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_the_boundary_is_chosen_and_nan_never(backend: Backend, dtype: torch.dtype) -> None:
    top = torch.finfo(dtype).max
    p = torch.tensor([0.5, -0.5, 0.50390625, -0.0, torch.nan, torch.inf, -torch.inf, top], dtype=dtype)
    p = p.to(backend.device)
    for threshold, chosen in ((0.5, 0b00001011), (0.0, 0b00001000), (0.5009765625, 0b00001011)):
        result = p.clone()
        zokern.perturb_masked_([result], 1, 2.0**-4, thresholds=threshold)
        assert [bool(chosen >> i & 1) for i in range(8)] == (bits(result) != bits(p)).tolist()
    everything = p.clone()
    zokern.perturb_masked_([everything], [], [], decay=0.5, thresholds=float("inf"))
    assert (everything[[0, 1, 2, 7]] == p[[0, 1, 2, 7]] / 2).all() and everything[4].isnan()


def test_probe_flip_and_update_from_the_base_share_a_mask(backend: Backend) -> None:
    """The probe carries weights over the threshold; the mask is that of the base all the same."""
    base = values(1000, torch.float32).to(backend.device)
    masks = []
    for scale in (1.0, -1.0, 0.3):
        probe = torch.empty_like(base)
        zokern.perturb_masked_([base], 7, scale, thresholds=0.05, out=[probe])
        masks.append(bits(probe) != bits(base))
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])
    assert torch.equal(masks[0], (base.abs() <= 0.05).cpu())
    zokern.perturb_masked_([base], 7, 0.3, thresholds=0.05)
    assert_same_bits(base, probe)


def test_a_mask_may_be_a_view(backend: Backend) -> None:
    p = values(600, torch.float32).view(20, 30).to(backend.device)
    rows = (torch.arange(20, device=backend.device) % 3 == 0).unsqueeze(1).expand(20, 30)
    result = p.clone()
    zokern.perturb_masked_([result], **MOVE, masks=[rows])
    assert_same_bits(result, torch.where(rows, moved(p), p))
