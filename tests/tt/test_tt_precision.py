"""The difference of two probes, y(+eps) - y(-eps): what zeroth-order training divides by 2 eps.

At eps = 1e-3 it is about 2 % of y, so an error that y itself would not show decides whether the
estimate means anything. Measured on the fp32 sums (`out` in float32), before the one rounding to the
model's dtype. That last rounding is the model's own: a bf16 residual stream carries 8 bits whatever
computes it, its errors at the two probes are independent of the direction, and no kernel can avoid it;
rounding cores or halves instead changes the direction that is being probed.
"""

import math

import pytest
import torch

import zokern
from tests.tt.conftest import adapter, adapter_to, dense_adapter, in_one_buffer, run_adapter

EPS, LIMIT = 1e-3, 1e-4


def even(a: dict) -> dict:
    """The same weights with cores of one rms a layer: eps moves each by as much of itself."""

    def level(cores: list) -> list:
        rms = [float(c.square().mean().sqrt()) for c in cores]
        mean = math.exp(sum(map(math.log, rms)) / len(rms))
        return [c * (mean / own) for c, own in zip(cores, rms)]

    return {**a, "down": level(a["down"]), "up": level(a["up"])}


def probes(a: dict, flat: torch.Tensor, sign: float) -> dict:
    """The adapter with its buffer moved by sign * eps along the noise, as new tensors."""
    moved = flat.clone()
    zokern.perturb_([moved], [1234], [sign * EPS])
    at, views = 0, []
    for t in [*a["down"], a["down_bias"], *a["up"], a["up_bias"]]:
        views.append(moved[at : at + t.numel()].view(t.shape))
        at += t.numel()
    n = len(a["down"])
    return {**a, "down": views[:n], "down_bias": views[n], "up": views[n + 1 : -1],
            "up_bias": views[-1]}  # fmt: skip


def rounded(a: dict) -> dict:
    def one(value: object) -> object:
        if isinstance(value, torch.Tensor):
            return value.bfloat16().float()
        return [t.bfloat16().float() for t in value] if isinstance(value, list) else value

    return {name: one(value) for name, value in a.items()}


@pytest.mark.parametrize("rank", [5, 16])
def test_probe_difference_is_accurate_with_a_bf16_model(tt_backend, rank, record_property):
    if tt_backend.interpreted:
        pytest.skip("4096 wide, minutes under the interpreter")
    flat, a, offsets = in_one_buffer(even(adapter([16, 16, 16], [4, 4, 4], rank)))
    x = torch.randn(8, 4096, generator=torch.Generator().manual_seed(0)).bfloat16()
    plus, minus = probes(a, flat, +1), probes(a, flat, -1)

    def delta(arguments: dict) -> torch.Tensor:
        """up(act(down(x))) in float64: the adapter's output without its residual."""
        return dense_adapter(x, arguments) - x.double()

    exact = delta(plus) - delta(minus)

    def relative(difference: torch.Tensor) -> float:
        return float((difference.double().cpu() - exact).norm() / exact.norm())

    device = tt_backend.device
    noise = zokern.TTNoise([1234, 1234], [EPS, -EPS], offsets)
    both = torch.cat([x, x]).to(device)
    y = run_adapter(both, adapter_to(a, device), noise=noise,
                    out=torch.empty(16, 4096, device=device))  # fmt: skip
    ours = relative(y[:8] - y[8:])
    coarse = relative(delta(rounded(plus)) - delta(rounded(minus)))
    size = float(exact.norm() / delta(plus).norm())
    record_property("difference over output", size)
    record_property("relative error, fp32 cores", ours)
    record_property("relative error, cores rounded to bf16", coarse)
    print(f"\n|y+ - y-| / |y| {size:.2%}; relative error {ours:.1e}; bf16 cores {coarse:.1%}")
    assert 1e-3 < size < 0.1
    assert ours <= LIMIT
    assert coarse > 0.05  # why cores stay fp32


def test_probe_difference_of_a_linear_layer(tt_backend):
    if tt_backend.interpreted:
        pytest.skip("4096 wide, minutes under the interpreter")
    from tests.tt.conftest import dense_weight, make_cores, to

    device = tt_backend.device
    cores = make_cores([16, 16, 16, 4, 4, 4], 5)
    x = torch.randn(8, 4096, generator=torch.Generator().manual_seed(0)).bfloat16()
    differences = []
    for dense in (True, False):
        ys = []
        for scale in (EPS, -EPS):
            moved = [c.clone() for c in cores]
            zokern.perturb_(moved, [7], [scale])
            if dense:
                ys.append(x.double() @ dense_weight(moved, 3))
            else:
                out = torch.empty(8, 64, device=device)
                ys.append(zokern.tt_linear(x.to(device), to(moved, device), 3, out=out).double().cpu())
        differences.append(ys[0] - ys[1])
    exact, got = differences
    assert (got - exact).norm() <= LIMIT * exact.norm()
