"""The difference of two probes, y(+eps) - y(-eps): what zeroth-order training divides by 2 eps.

At eps = 1e-3 it is about 2 % of y, so an error that y itself would not show decides whether the
estimate means anything. Measured on the fp32 sums (`out` in float32), before the one rounding to the
model's dtype. That last rounding is the model's own: a bf16 residual stream carries 8 bits whatever
computes it, its errors at the two probes are independent of the direction, and no kernel can avoid it;
rounding cores or halves instead changes the direction that is being probed.

The limit of the error is a model of rounding, computed from the data of each test. An output is a sum of
products along paths through the cores. At most N roundings lie on a path, in whatever order the sums are
taken: as many as its sums have terms, the input features and every rank. Each changes a partial sum s by at
most u |s|, u = 2^-24. Data of independent signs, as here, give s a mean square of the sum of its paths'
squares, so the mean square error of an output is at most N u^2 times the sum of all its paths' squares (the
same sum as the output, of squares). Roundings are taken as independent (Higham and Mary, A New Approach to
Probabilistic Rounding Error Analysis, 2019); were all of them and all signs to conspire, the bound would be
29 times the linear layer's difference and nothing would fail. The norm over all outputs is compared with the
root of the summed mean squares, with no further factor: that u is used for a rounding's rms, which is below
u / sqrt(3), and N for every path, where the mean of a sum taken one after the other is N / 2, leaves a factor
of 2.4, and the norm of 40 independent sums or more spreads by a tenth.
"""

import math

import pytest
import torch

import zokern
from tests.tt.conftest import (
    adapter,
    adapter_to,
    dense_adapter,
    dense_weight,
    in_one_buffer,
    make_cores,
    run_adapter,
    to,
)

EPS = 1e-3
U = torch.finfo(torch.float32).eps / 2


def path_squares(cores: list, split: int) -> torch.Tensor:
    """Of every element of the dense weight, the sum of its products' squares."""
    return dense_weight([c.double().square() for c in cores], split)


def roundings(cores: list, split: int) -> int:
    """N of one layer."""
    features = math.prod(c.shape[1] for c in cores[:split])
    return features + sum(c.shape[0] for c in cores[1:])


def linear_errors(x: torch.Tensor, cores: list, split: int) -> torch.Tensor:
    """Mean squares of the errors of `tt_linear`'s outputs."""
    return U**2 * roundings(cores, split) * (x.double().square() @ path_squares(cores, split))


def adapter_errors(x: torch.Tensor, a: dict) -> torch.Tensor:
    """Mean squares of the errors of `tt_adapter`'s outputs. relu passes an error on as it is, or not at all."""
    hidden_errors = linear_errors(x, a["down"], a["down_split"]) + (U * a["down_bias"].double()).square()
    hidden = torch.relu(x.double() @ dense_weight(a["down"], a["down_split"]) + a["down_bias"].double())
    errors = hidden_errors @ path_squares(a["up"], a["up_split"])
    errors = errors + linear_errors(hidden, a["up"], a["up_split"])
    # the sums with the bias and with x: one rounding each, of at most the sizes of both
    ends = dense_adapter(x, a).square() + (dense_adapter(x, a) - x.double()).square()
    return errors + U**2 * ends


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
    limit = float((adapter_errors(x, plus) + adapter_errors(x, minus)).sum().sqrt() / exact.norm())
    size = float(exact.norm() / delta(plus).norm())
    record_property("difference over output", size)
    record_property("relative error, fp32 cores", ours)
    record_property("relative error, cores rounded to bf16", coarse)
    print(f"\n|y+ - y-| / |y| {size:.2%}; relative error {ours:.1e} of {limit:.1e}; bf16 cores {coarse:.1%}")
    assert 1e-3 < size < 0.1
    assert ours <= limit
    assert coarse > max(0.05, 10 * limit)  # why cores stay fp32, and what the limit is there to see


def tf32(tensor: torch.Tensor) -> torch.Tensor:
    """Rounded to the 11 bits that tensor cores keep of fp32."""
    return ((tensor.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def test_probe_difference_of_a_linear_layer(tt_backend):
    if tt_backend.interpreted:
        pytest.skip("4096 wide, minutes under the interpreter")
    device = tt_backend.device
    cores = make_cores([16, 16, 16, 4, 4, 4], 5)
    x = torch.randn(8, 4096, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact, got, dropped, coarse, bound = 0.0, 0.0, 0.0, 0.0, 0.0
    for sign in (1, -1):
        moved = [c.clone() for c in cores]
        zokern.perturb_(moved, [7], [sign * EPS])
        out = torch.empty(8, 64, device=device)
        got += sign * zokern.tt_linear(x.to(device), to(moved, device), 3, out=out).double().cpu()
        exact += sign * (x.double() @ dense_weight(moved, 3))
        dropped += sign * (x.double()[:, 1:] @ dense_weight(moved, 3)[1:])  # one term of 4096
        coarse += sign * (x.double() @ dense_weight([tf32(c) for c in moved], 3))
        bound += linear_errors(x, moved, 3)
    limit = bound.sum().sqrt()
    error, one, few = ((each - exact).norm() / exact.norm() for each in (got, dropped, coarse))
    print(
        f"\nrelative error {error:.1e} of {limit / exact.norm():.1e}; a term less {one:.1e}; tf32 cores {few:.1e}"
    )
    assert (got - exact).norm() <= limit
    for wrong in (dropped, coarse):
        assert (wrong - exact).norm() > 10 * limit  # what the limit is there to see
