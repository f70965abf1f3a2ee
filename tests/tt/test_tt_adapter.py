"""`tt_adapter` against float64 with dense weights: activations, biases, scale, in place, 16 bits."""

import pytest
import torch

import zokern
from tests.conftest import assert_same_bits
from tests.tt.conftest import (
    FP32,
    ROUNDING,
    adapter,
    adapter_to,
    dense_adapter,
    error,
    run_adapter,
    serving,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ACTIVATIONS = ["relu", "gelu", "silu", "tanh", "identity"]
SIZES = {
    "768": ([8, 8, 12], [4, 4, 4]),
    "61": ([61], [8]),
    "61 padded": ([61, 1, 1], [2, 2, 2]),
    "576": ([8, 8, 9], [2, 2, 2]),
    "4096": ([16, 16, 16], [4, 4, 4]),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_dense(tt_backend, activation, dtype):
    for hidden, narrow in list(SIZES.values())[: 3 if tt_backend.interpreted else None]:
        a = adapter(hidden, narrow)
        x = torch.randn(9, int(torch.tensor(hidden).prod())).to(dtype)
        expected = dense_adapter(x, a, activation, 0.5)
        y = run_adapter(
            x.to(tt_backend.device), adapter_to(a, tt_backend.device), activation=activation, scale=0.5
        )
        assert y.dtype == dtype and y.shape == x.shape
        assert error(y, expected) <= FP32 + ROUNDING[dtype]


@pytest.mark.parametrize("missing", ["down_bias", "up_bias", "both"])
def test_biases_are_optional(tt_backend, missing):
    a = adapter([4, 6], [2, 3])
    for name in ("down_bias", "up_bias"):
        if missing in (name, "both"):
            a[name] = None
    x = torch.randn(5, 24)
    y = run_adapter(x.to(tt_backend.device), adapter_to(a, tt_backend.device))
    assert error(y, dense_adapter(x, a)) <= FP32


def test_activations_are_accurate_over_their_range(cpu):
    """Within 6e-7 of float64 relative to the larger of the value and 1e-3, on a dense grid: an adapter
    of size one with unit cores returns x + act(x)."""
    one = [torch.ones(1, 1, 1)] * 2
    x = torch.cat([torch.linspace(-12, 12, 40001), torch.logspace(-6, 1.9, 2000)])
    x = torch.cat([x, -x])[:, None]
    for activation in ACTIVATIONS:
        y = zokern.tt_adapter(x, one, one, activation=activation, scale=-1.0)
        got = x.double() - y.double()  # y = x - act(x) rounds once more, at |x| + |act|
        a = {"down": one, "up": one, "down_split": 1, "up_split": 1, "down_bias": None, "up_bias": None}
        expected = dense_adapter(x, a, activation, 1.0) - x.double()
        slack = 6e-7 * expected.abs().clamp_min(1e-3) + 1.2e-7 * (x.abs() + expected.abs())
        assert ((got - expected).abs() <= slack).all(), activation


def test_activations_pass_nan_and_saturate(cpu):
    one = [torch.ones(1, 1, 1)] * 2
    x = torch.tensor([[float("nan")], [200.0], [-200.0]])
    for activation, high, low in [("relu", 200, 0), ("gelu", 200, 0), ("silu", 200, 0), ("tanh", 1, -1)]:
        y = zokern.tt_adapter(x, one, one, activation=activation) - x
        assert y[0].isnan()
        assert y[1].item() == pytest.approx(high, abs=1e-4) and y[2].item() == pytest.approx(low, abs=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_in_place_equals_out_of_place(tt_backend, dtype):
    a = adapter_to(adapter([4, 6], [2, 3]), tt_backend.device)
    x = torch.randn(4, 5, 24, device=tt_backend.device).to(dtype)
    expected = run_adapter(x, a)
    given = torch.full_like(x, float("nan"))
    assert run_adapter(x, a, out=given) is given
    assert_same_bits(given, expected)
    version = x._version
    assert run_adapter(x, a, out=x) is x
    assert_same_bits(x, expected)
    assert x._version > version


@pytest.mark.parametrize("rows", [2047, 2048, 2049])
def test_a_large_output_equals_a_given_one(cpu, rows):
    """Around 8 MiB, from where a fresh output gets huge pages; and in place, many tiles."""
    a = adapter([8, 16, 8], [4, 4])
    x = torch.randn(rows, 1024)
    given = torch.empty_like(x)
    fresh = run_adapter(x, a)
    assert_same_bits(run_adapter(x, a, out=given), fresh)
    assert_same_bits(run_adapter(x, a, out=x), fresh)


def test_in_place_on_a_slice_touches_nothing_else(tt_backend):
    a = adapter_to(adapter([4, 6], [2, 3]), tt_backend.device)
    whole = torch.randn(7, 40, device=tt_backend.device)
    before, part = whole.clone(), whole[1:6, 8:32]
    expected = run_adapter(part.clone(), a)
    run_adapter(part, a, out=part)
    assert_same_bits(part.contiguous(), expected)
    mask = torch.ones_like(whole, dtype=torch.bool)
    mask[1:6, 8:32] = False
    assert torch.equal(whole[mask], before[mask])


def test_zero_delta_leaves_x_bit_for_bit(tt_backend):
    a = adapter_to(adapter([8, 8, 12], [4, 4, 4]), tt_backend.device)
    a["up"][-1].zero_()
    a["up_bias"].zero_()
    for dtype in DTYPES:
        x = torch.randn(6, 768, device=tt_backend.device).to(dtype)
        assert_same_bits(run_adapter(x, a), x)


@pytest.mark.parametrize("shape", [(), (1,), (4, 1), (1, 5), (0,), (2, 0, 3)], ids=str)
def test_keeps_leading_sizes(tt_backend, shape):
    a = adapter_to(adapter([4, 6], [2, 3]), tt_backend.device)
    x = torch.randn(*shape, 24, device=tt_backend.device)
    y = run_adapter(x, a)
    assert y.shape == x.shape
    assert x.numel() == 0 or error(y, dense_adapter(x, a)) <= FP32


def test_all_instruction_sets_give_the_same_bits():
    for activation in ACTIVATIONS:
        for hidden, narrow in SIZES.values():
            a = adapter(hidden, narrow)
            x = torch.randn(13, int(torch.tensor(hidden).prod())).half()
            results = []
            for b in serving():
                if b.name == "cpu" and not b.unavailable():
                    with b.use():
                        results.append(run_adapter(x, a, activation=activation))
            for other in results[1:]:
                assert_same_bits(other, results[0])


def test_does_not_depend_on_threads(cpu):
    a = adapter([8, 8, 12], [4, 4, 4], ranks=16)
    before = torch.get_num_threads()
    x = torch.randn(1501, 768)
    try:
        torch.set_num_threads(1)
        one = run_adapter(x, a)
        for threads in (2, 5):
            torch.set_num_threads(threads)
            assert_same_bits(run_adapter(x, a), one)
    finally:
        torch.set_num_threads(before)


def test_runs_in_inference_mode(tt_backend):
    a = adapter_to(adapter([4, 6], [2, 3]), tt_backend.device)
    with torch.inference_mode():
        x = torch.randn(3, 24, device=tt_backend.device)
        expected = run_adapter(x, a)
        run_adapter(x, a, out=x)
    assert torch.equal(x, expected)
