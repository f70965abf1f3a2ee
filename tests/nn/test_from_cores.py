"""Layers of given cores, of every shape of table 9 of AdaZeta, and ranks as they are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zokern
from zokern.nn import TTAdapter, TTLinear, add_tt_adapters, load_tt_adapters, save_tt_adapters

TABLE_9 = [
    [8, 8, 12, 4, 4, 4], [16, 16, 16, 4, 4, 4], [4, 4, 4, 12, 8, 8], [4, 4, 4, 16, 16, 16],
    [8, 8, 12, 2, 2, 2], [16, 16, 16, 2, 2, 4], [2, 2, 2, 12, 8, 8], [2, 2, 2, 16, 16, 16],
]  # fmt: skip


def cores_of(modes: list[int], rank: int, boundaries: bool = True) -> list[Tensor]:
    ranks = [1, *[rank] * (len(modes) - 1), 1]
    cores = [0.5 * torch.randn(a, k, b) for a, k, b in zip(ranks, modes, ranks[1:])]
    if not boundaries:
        cores[0], cores[-1] = cores[0].squeeze(0), cores[-1].squeeze(-1)
    return cores


def dense(cores: list[Tensor], rows: int) -> Tensor:
    product = cores[0].reshape(1, -1, cores[0].shape[-1]).double()
    for core in cores[1:]:
        whole = core.reshape(product.shape[-1], core.shape[1], -1).double()
        product = torch.tensordot(product, whole, dims=1)
    return product.reshape(rows, -1)


@pytest.mark.parametrize("rank", [1, 5, 8, 16])
@pytest.mark.parametrize("modes", TABLE_9, ids=lambda modes: "x".join(map(str, modes)))
def test_every_shape_of_table_9(modes: list[int], rank: int) -> None:
    for boundaries in (True, False):
        cores = cores_of(modes, rank, boundaries)
        rows, bias = int(np.prod(modes[:3])), torch.randn(int(np.prod(modes[3:])))
        layer = TTLinear.from_cores(cores, 3, bias)
        assert layer.ranks == [rank] * 5
        assert all(torch.equal(a.flatten(), b.flatten()) for a, b in zip(layer.cores, cores))
        x = torch.randn(2, 1, rows)
        right = x.double() @ dense(cores, rows) + bias.double()
        scale = float(right.abs().max())
        torch.testing.assert_close(layer(x).double() / scale, right / scale, rtol=0, atol=1e-5)
        layer(x).square().sum().backward()
        assert layer.flat.grad is not None and layer.flat.grad.isfinite().all()


def test_an_adapter_of_given_cores() -> None:
    down = cores_of([4, 4, 4, 2, 2, 2], 5)
    up = [core.permute(2, 1, 0).contiguous() + 0.1 for core in reversed(down)]
    down_bias, up_bias = torch.randn(8), torch.randn(64)
    adapter = TTAdapter.from_cores(
        down, up, down_bias=down_bias, up_bias=up_bias, activation="tanh", scale=0.5
    )
    assert adapter.ranks == [5] * 5
    x = torch.randn(3, 64)
    hidden = torch.tanh(x.double() @ dense(down, 64) + down_bias.double())
    right = x.double() + 0.5 * (hidden @ dense(up, 8) + up_bias.double())
    torch.testing.assert_close(adapter(x).double(), right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "layer", [TTLinear(24, 6, 7, clip_ranks=False), TTAdapter(24, 6, 7, clip_ranks=False)]
)
def test_ranks_are_kept_as_given(layer: nn.Module) -> None:
    assert layer.ranks == [7] * 5
    assert max(type(layer)(24, 6, 7).ranks) == 6  # the size of the output side
    assert layer(torch.randn(2, 24)).isfinite().all()


def test_start_values_of_unclipped_ranks_have_the_standard_deviation() -> None:
    weight = TTLinear(64, 64, 9, clip_ranks=False, std=0.25).weight()
    torch.testing.assert_close(weight.square().mean().sqrt(), torch.tensor(0.25), rtol=1e-4, atol=0)


def test_adapters_with_unclipped_ranks_are_saved_and_loaded(tmp_path) -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))

    first = model()
    add_tt_adapters(first, 4, 6, ["0"], clip_ranks=False, init="gaussian")
    assert first.tt_adapters.adapters[0].ranks == [6] * 5
    save_tt_adapters(first, tmp_path)
    second = model()
    load_tt_adapters(second, tmp_path)
    x = torch.randn(3, 8)
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TTLinear.from_cores(3, 1), "cores must be a list of tensors, got 3"),
        (lambda: TTLinear.from_cores([torch.ones(2), torch.ones(2)], 1), r"cores\[0\] has shape \(2,\)"),
        (
            lambda: TTLinear.from_cores(cores_of([2, 2], 2), 2),
            r"split must be in \[1, 1\] for 2 cores, got 2",
        ),
        (lambda: TTLinear.from_cores(cores_of([2, 2], 2), 1, torch.ones(3)), r"bias has shape \(3,\)"),
        (
            lambda: TTAdapter.from_cores(cores_of([4, 2], 2), cores_of([4, 2], 2)),
            "up must have the mirrored shapes of down",
        ),
    ],
)
def test_rejects_by_name(call, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_from_cores_makes_a_copy() -> None:
    cores = cores_of([4, 4], 3)
    layer = TTLinear.from_cores(cores, 1)
    zokern.perturb_([layer.flat.detach()], 7, 1.0)
    assert not torch.equal(layer.cores[0], cores[0])
