from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from zokern.nn import TTAdapter

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FUNCTIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "identity": lambda h: h,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scrambled(**options: object) -> TTAdapter:
    adapter = TTAdapter(**options, generator=generator())
    with torch.no_grad():
        adapter.flat.copy_(0.4 * torch.randn(adapter.flat.shape, generator=generator(1)))
    return adapter


def dense(adapter: TTAdapter, x: torch.Tensor) -> torch.Tensor:
    """float64, from the matrices."""
    down, up = (matrix.detach().double() for matrix in adapter.delta())
    h = x.double() @ down
    if adapter.down_bias is not None:
        h = h + adapter.down_bias.detach().double()
    y = FUNCTIONS[adapter.activation](h) @ up
    if adapter.up_bias is not None:
        y = y + adapter.up_bias.detach().double()
    return x.double() + adapter.scale * y


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_starts_as_the_identity_to_the_bit(dtype: torch.dtype, activation: str, bias: bool) -> None:
    adapter = TTAdapter(96, 8, activation=activation, bias=bias, generator=generator())
    x = torch.randn(3, 5, 96, generator=generator(2)).mul(100).to(dtype)
    with torch.no_grad():
        assert torch.equal(adapter(x), x)
        kept = x.clone()
        assert adapter(x, inplace=True) is x and torch.equal(x, kept)


def test_every_core_but_the_zeroed_one_is_live() -> None:
    adapter = TTAdapter(768, 64, 5, generator=generator())
    empty = [i for i, core in enumerate(adapter.up) if not core.any()]
    assert empty == [3] and adapter.up[3].numel() == max(core.numel() for core in adapter.up)
    assert all(core.all() for core in adapter.down)


def test_gaussian_start_adds_noise_of_the_requested_size() -> None:
    adapter = TTAdapter(576, 64, init="gaussian", std=(0.05, 0.01), generator=generator())
    down, up = adapter.delta()
    assert float(down.detach().square().mean().sqrt()) == pytest.approx(0.05, rel=1e-4)
    assert float(up.detach().square().mean().sqrt()) == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("bias", [True, False, "down", "up"])
@pytest.mark.parametrize("hidden", [96, 61])
def test_forward_is_the_dense_adapter(activation: str, bias: bool | str, hidden: int) -> None:
    adapter = scrambled(hidden=hidden, bottleneck=12, rank=3, activation=activation, bias=bias, scale=0.7)
    x = torch.randn(2, 5, hidden, generator=generator(2))
    expected = dense(adapter, x)
    with torch.no_grad():
        y = adapter(x)
        assert (y - expected).abs().max() <= 1e-5 * float(expected.abs().max())
        assert torch.equal(adapter(x, inplace=True), y)


@pytest.mark.parametrize("shape", [(4, 1, 24), (1, 4, 24), (24,), (0, 24), (1, 1, 24)])
def test_leading_sizes_are_kept(shape: tuple[int, ...]) -> None:
    with torch.no_grad():
        assert scrambled(hidden=24, bottleneck=8)(torch.ones(shape)).shape == shape


def test_projections_mirror_each_other() -> None:
    adapter = TTAdapter(768, 64, 5)
    shapes = [tuple(core.shape) for core in adapter.down]
    assert shapes == [(1, 8, 5), (5, 8, 5), (5, 12, 5), (5, 4, 5), (5, 4, 4), (4, 4, 1)]
    assert [tuple(core.shape[::-1]) for core in reversed(adapter.up)] == shapes


def test_published_size_at_4096() -> None:
    """The adapter that replaces 2 x 4096 x 64 weights and 4096 + 64 biases."""
    everything = TTAdapter(4096, 64, 5, bias=True).flat.numel()
    cores = TTAdapter(4096, 64, 5, bias=False).flat.numel()
    assert cores == 2 * 1076 and everything == cores + 4096 + 64
    assert (2 * 4096 * 64 + 4096 + 64) / everything > 80
    assert 2 * 4096 * 64 / cores > 240


def test_first_order_training_moves_every_part() -> None:
    adapter = TTAdapter(24, 8, 3, bias=True, activation="tanh", generator=generator())
    x, target = torch.randn(32, 24, generator=generator(1)), torch.randn(32, 24)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.5)
    start = adapter.flat.detach().clone()
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.mse_loss(adapter(x, inplace=True), target)  # in place is ignored here
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert (adapter.flat.detach() != start).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden must be a positive integer, got 0"),
        ({"bottleneck": -1}, "bottleneck must be a positive integer, got -1"),
        ({"rank": 0}, "rank must be a positive integer, got 0"),
        ({"activation": "swish"}, "activation must be one of .*, got 'swish'"),
        ({"bias": "both"}, "bias must be True, False, 'down' or 'up', got 'both'"),
        ({"init": "zeros"}, "init must be one of 'identity', 'gaussian', got 'zeros'"),
        ({"scale": float("nan")}, "scale must be finite, got nan"),
        ({"std": (-1.0, None)}, "std\\[0\\] must be finite and >= 0, got -1.0"),
        ({"modes": ([4, 4], [8])}, r"modes: \[4, 4\] multiply to 16, but hidden is 24"),
    ],
)
def test_rejects_by_name(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TTAdapter(**{"hidden": 24, "bottleneck": 8, **options})


def test_wrong_input_width_is_named() -> None:
    with pytest.raises(ValueError, match=r"hidden = 24 features, got shape \(2, 23\)"):
        TTAdapter(24, 8)(torch.ones(2, 23))
