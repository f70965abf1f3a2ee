from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from zokern.nn import TTLinear
from zokern.nn.init import fill_cores_, frobenius_norm


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SIZES = [
    pytest.param(768, 64, id="published"),
    pytest.param(61, 97, id="primes"),
    pytest.param(576, 8, id="narrow"),
    pytest.param(1, 1, id="one"),
    pytest.param(2, 30, id="small"),
]


@pytest.mark.parametrize(("n_in", "n_out"), SIZES)
@pytest.mark.parametrize("rank", [1, 5, 16])
def test_forward_is_the_dense_layer(n_in: int, n_out: int, rank: int) -> None:
    layer = TTLinear(n_in, n_out, rank, generator=generator())
    with torch.no_grad():
        layer.bias.normal_(generator=generator())
        x = torch.randn(2, 3, n_in, generator=generator(1))
        y = layer(x)
        expected = F.linear(x.double(), layer.weight().double(), layer.bias.double())
        assert torch.allclose(layer.to_linear()(x), y, atol=1e-5)
    assert y.shape == (2, 3, n_out) and y.dtype == torch.float32
    assert (y - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("std", [1.0, 0.02, None])
@pytest.mark.parametrize(("n_in", "n_out"), [(768, 64), (64, 4096), (61, 24)])
def test_start_has_the_requested_std(n_in: int, n_out: int, std: float | None) -> None:
    """Every draw, not only on average: with rank 5 a plain draw strays by a factor of 2."""
    expected = n_in**-0.5 if std is None else std
    means = []
    for seed in range(8):
        weight = TTLinear(n_in, n_out, 5, std=std, generator=generator(seed)).weight().detach()
        assert math.isclose(float(weight.square().mean().sqrt()), expected, rel_tol=1e-4)
        means.append(float(weight.mean()) / expected)
    # a mean of n_in * n_out strongly dependent entries: its own spread, over the draws, bounds it
    spread = torch.tensor(means).std()
    assert abs(sum(means) / 8) <= 4 * spread / math.sqrt(8) and spread < 0.5


def test_cores_share_one_scale() -> None:
    layer = TTLinear(4096, 64, 5, generator=generator())
    levels = [float(core.detach().square().mean().sqrt()) for core in layer.cores]
    assert max(levels) < 2 * min(levels)


def test_start_depends_on_the_generator_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, other = (TTLinear(30, 30, generator=generator(3)) for _ in range(2))
    assert torch.equal(one.flat, other.flat)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(one.flat, TTLinear(30, 30, generator=generator(4)).flat)


def test_norm_without_forming_the_matrix() -> None:
    layer = TTLinear(60, 42, [2, 7, 3, 6, 2], generator=generator())
    dense = layer.weight().detach().double().norm()
    assert math.isclose(frobenius_norm(layer.cores), float(dense), rel_tol=1e-6)


def test_std_zero_is_the_zero_matrix_with_live_cores() -> None:
    cores = [torch.empty(1, 4, 3), torch.empty(3, 4, 1)]
    fill_cores_(cores, 0.0, generator())
    assert cores[0].any() and not cores[1].any()


def test_explicit_modes_and_ranks() -> None:
    layer = TTLinear(768, 64, [2, 3, 4, 3, 9], modes=([12, 8, 8], [4, 4, 4]))
    assert [tuple(core.shape) for core in layer.cores] == [
        (1, 12, 2), (2, 8, 3), (3, 8, 4), (4, 4, 3), (3, 4, 4), (4, 4, 1),
    ]  # fmt: skip
    assert layer.ranks == [2, 3, 4, 3, 4]  # the last: more than 4 columns cannot make use of
    uneven = TTLinear(12, 6, 3, modes=([12], [2, 3]))
    assert uneven(torch.ones(5, 12)).shape == (5, 6)


@pytest.mark.parametrize("shape", [(4, 1, 64), (1, 4, 64), (1, 1, 1, 64), (64,), (0, 64), (2, 0, 64)])
def test_leading_sizes_are_kept(shape: tuple[int, ...]) -> None:
    """A published layer squeezes sizes of 1 away; the residual then broadcasts (4,1,h) to (4,4,h)."""
    layer = TTLinear(64, 8, generator=generator())
    with torch.no_grad():
        assert layer(torch.ones(shape)).shape == (*shape[:-1], 8)


def test_sixteen_bit_input_keeps_fp32_cores() -> None:
    layer = TTLinear(64, 64, generator=generator())
    x = torch.randn(7, 64, generator=generator(1)).bfloat16()
    with torch.no_grad():
        y = layer(x)
        expected = (x.double() @ layer.weight().double().T).bfloat16()
    assert y.dtype == torch.bfloat16
    assert (y.double() - expected.double()).abs().max() <= 2**-7 * float(expected.abs().max())


def test_first_order_training_goes_down() -> None:
    layer = TTLinear(24, 10, 4, generator=generator())
    x, w = torch.randn(64, 24, generator=generator(1)), torch.randn(24, 10, generator=generator(2))
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.mse_loss(layer(x), x @ w)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert layer.flat.grad is not None and layer.flat.grad.shape == layer.flat.shape
    assert losses[-1] < 0.7 * losses[0]


def test_gradient_is_that_of_the_dense_weight() -> None:
    layer = TTLinear(12, 8, 3, generator=generator()).double()
    x = torch.randn(5, 12, dtype=torch.float64, generator=generator(1))
    assert layer.flat.dtype == torch.float64
    (layer(x).square().sum()).backward()
    through_op = layer.flat.grad.clone()
    layer.flat.grad = None
    left = layer.cores
    product = left[0]
    for core in left[1:]:
        product = torch.tensordot(product, core, dims=1)
    (x @ product.reshape(12, 8) + layer.bias).square().sum().backward()
    assert torch.allclose(through_op, layer.flat.grad, rtol=1e-10, atol=1e-12)


class TestFromLinear:
    def test_full_rank_is_exact(self) -> None:
        linear = torch.nn.Linear(24, 18)
        layer = TTLinear.from_linear(linear, tolerance=0.0)
        assert layer.tt_error is not None and layer.tt_error < 1e-12
        x = torch.randn(5, 24)
        assert torch.allclose(layer(x), linear(x), atol=1e-5)

    @pytest.mark.parametrize("tolerance", [0.5, 0.1, 0.01])
    def test_tolerance_is_kept_and_the_error_told(self, tolerance: float) -> None:
        torch.manual_seed(0)
        linear = torch.nn.Linear(60, 36)
        with torch.no_grad():  # a spectrum that can be cut
            u, s, v = torch.linalg.svd(linear.weight, full_matrices=False)
            linear.weight.copy_(u * (s * 0.7 ** torch.arange(36)) @ v)
        layer = TTLinear.from_linear(linear, tolerance=tolerance)
        error = (layer.weight() - linear.weight).double().norm() / linear.weight.double().norm()
        assert layer.tt_error <= tolerance
        assert math.isclose(layer.tt_error, error.item(), rel_tol=1e-3, abs_tol=1e-6)

    def test_rank_bounds_the_ranks_and_a_tt_matrix_is_found_again(self) -> None:
        source = TTLinear(64, 30, 3, generator=generator())
        layer = TTLinear.from_linear(source.to_linear(), rank=3)
        assert max(layer.ranks) <= 3 and layer.tt_error < 1e-6
        assert TTLinear.from_linear(source.to_linear(), rank=2).tt_error > 1e-2

    def test_zero_weight(self) -> None:
        linear = torch.nn.Linear(8, 8, bias=False)
        torch.nn.init.zeros_(linear.weight)
        layer = TTLinear.from_linear(linear, rank=2)
        assert layer.tt_error == 0.0 and layer.bias is None and not layer.weight().any()

    def test_conv1d_of_gpt2(self) -> None:
        from transformers.pytorch_utils import Conv1D

        conv = Conv1D(10, 6)  # weight is (in, out)
        layer = TTLinear.from_linear(conv, tolerance=0.0)
        x = torch.randn(3, 6)
        assert (layer.in_features, layer.out_features) == (6, 10)
        assert torch.allclose(layer(x), conv(x), atol=1e-5)

    def test_rejects_by_name(self) -> None:
        linear = torch.nn.Linear(8, 8)
        with pytest.raises(ValueError, match="rank or tolerance must be given"):
            TTLinear.from_linear(linear)
        with pytest.raises(ValueError, match=r"tolerance must be in \[0, 1\), got 1.5"):
            TTLinear.from_linear(linear, tolerance=1.5)
        with pytest.raises(ValueError, match="rank must be a positive integer"):
            TTLinear.from_linear(linear, rank=0)
        with pytest.raises(TypeError, match="linear must have a weight matrix, got ReLU"):
            TTLinear.from_linear(torch.nn.ReLU(), rank=2)


def test_state_round_trip_and_copies_are_apart() -> None:
    layer = TTLinear(30, 12, generator=generator(1))
    x = torch.randn(4, 30)
    with torch.no_grad():
        before = layer(x)  # views are cached from here on
        other = TTLinear(30, 12, generator=generator(2))
        other(x)
        other.load_state_dict(layer.state_dict())
        assert torch.equal(other(x), before)
        twin = copy.deepcopy(layer)
        twin.flat.zero_()
        assert torch.equal(layer(x), before) and not twin(x).any()
        assert not twin.weight().any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 0, "out_features": 4}, "in_features must be a positive integer, got 0"),
        ({"in_features": 4, "out_features": 2.0}, "out_features must be a positive integer"),
        ({"in_features": 4, "out_features": 4, "rank": -1}, "rank must be a positive integer, got -1"),
        (
            {"in_features": 8, "out_features": 4, "modes": ([4, 4], [4])},
            r"modes: \[4, 4\] multiply to 16, but in_features is 8",
        ),
        ({"in_features": 4, "out_features": 4, "std": -1.0}, "std must be finite and >= 0"),
    ],
)
def test_rejects_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TTLinear(**arguments)


def test_wrong_input_width_is_named() -> None:
    with pytest.raises(ValueError, match=r"x must end in 8 features, got shape \(2, 7\)"):
        TTLinear(8, 8)(torch.ones(2, 7))
