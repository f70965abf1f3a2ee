"""`adam_` is Adam, AdaMax and AMSGrad on the gradient sum g z; restore and update in one pass."""

from __future__ import annotations

import pytest
import torch

import zokern
from tests.conftest import Backend, assert_same_bits
from tests.ops.test_perturb import values

TORCH = {
    "adam": (torch.optim.Adam, "adam", {}),
    "adam, l2": (torch.optim.Adam, "adam", {"weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, "adam", {"weight_decay": 0.1}),
    "adamax": (torch.optim.Adamax, "adamax", {}),
    "adamax, l2": (torch.optim.Adamax, "adamax", {"weight_decay": 0.1}),
    "amsgrad": (torch.optim.Adam, "adamm", {"amsgrad": True}),
}


@pytest.mark.parametrize("name", TORCH)
def test_is_torchs_optimizer_fed_with_the_gradient(backend: Backend, name: str) -> None:
    kind, variant, options = TORCH[name]
    decay = options.get("weight_decay", 0.0)
    lr, eps, steps = 1e-2, 1e-3, 4 if backend.interpreted else 25
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(40, 25, generator=generator)
    theirs = torch.nn.Parameter(start.double())
    optimizer = kind([theirs], lr=lr, betas=(0.9, 0.99), **options)
    ours = start.clone().to(backend.device)
    m, v, top = (torch.zeros_like(ours) for _ in range(3))
    keep = 1 - lr * decay if kind is torch.optim.AdamW else 1.0
    for step in range(1, steps + 1):
        seeds = [3 * step, 3 * step + 1]
        grads = torch.randn(2, generator=generator).tolist()
        with torch.no_grad():
            draws = [zokern.normal(start.shape, s, device=backend.device).cpu().double() for s in seeds]
        theirs.grad = sum(g * z for g, z in zip(grads, draws))
        optimizer.step()
        zokern.perturb_(ours, seeds, [eps, -2 * eps])
        zokern.adam_(
            ours, m, v, seeds, grads, lr=lr, betas=(0.9, 0.99), step=step, variant=variant,
            max_exp_avg_sqs=top if variant == "adamm" else None, l2=0.0 if keep != 1.0 else decay,
            decay=keep, displacements=[-eps * keep, 2 * eps * keep],
        )  # fmt: skip
    # theirs is float64. Ours rounds weights of up to 4 to fp32 two times a step (2.4e-7 each), which adds up
    # like a random walk; the direction, of size 1, to some 1e-6 times the rate.
    error = (ours.cpu().double() - theirs.detach()).abs().max()
    assert error < 4 * 2.4e-7 * (2 * steps) ** 0.5 + steps * lr * 2e-6


@pytest.mark.parametrize("seeds", [[5], [5, 6, 7]], ids=["one seed", "three seeds"])
@pytest.mark.parametrize("variant", ["adam", "adamax", "adamm"])
def test_restore_and_update_in_one_pass_are_the_two_passes(
    backend: Backend, variant: str, seeds: list[int]
) -> None:
    start = [values(700, torch.float32, k).to(backend.device) for k in range(4)]
    back = [1e-3 * (k + 1) for k in range(len(seeds))]
    grads = [0.7 - k for k in range(len(seeds))]
    results = []
    for fused in (True, False):
        p, m, v, top = (t.clone() for t in start)
        if not fused:
            zokern.perturb_([p], seeds, back, decay=0.9)
        zokern.adam_(
            [p], [m], [v.abs_()], seeds, grads, lr=1e-2, step=3, variant=variant, l2=0.01,
            max_exp_avg_sqs=[top.abs_()] if variant == "adamm" else None,
            decay=0.9 if fused else 1.0, displacements=back if fused else None,
        )  # fmt: skip
        results.append((p, m, v, top))
    for a, e in zip(*results):
        assert_same_bits(a, e)


def test_many_seeds_are_summed_in_one_pass(backend: Backend) -> None:
    count = 5 if backend.interpreted else 70
    p, m, v = (torch.zeros(300, device=backend.device) for _ in range(3))
    seeds = list(range(count))
    grads = [0.5 - k % 3 for k in seeds]
    zokern.adam_(p, m, v, seeds, grads, lr=1.0, betas=(0.0, 0.0), step=1)
    expected = torch.zeros(300, device=backend.device)
    zokern.perturb_(expected, seeds, grads)
    assert_same_bits(m, expected)  # beta1 = 0: m is the gradient
    assert (p + m.sign()).abs().max() < 1e-5  # and the step its sign


def test_adamm_keeps_the_maximum(backend: Backend) -> None:
    p, m, v, top = (torch.zeros(200, device=backend.device) for _ in range(4))
    seen = torch.zeros_like(v)
    for step, grad in enumerate([3.0, 0.1, -1.0, 0.01], 1):
        zokern.adam_(
            p, m, v, step, grad, lr=0.1, betas=(0.5, 0.5), step=step, variant="adamm", max_exp_avg_sqs=top
        )
        seen = torch.maximum(seen, v)
        assert_same_bits(top, seen)
    assert (top > v).any()


def test_without_step_there_is_no_bias_correction(backend: Backend) -> None:
    p, m, v = (torch.zeros(200, device=backend.device) for _ in range(3))
    zokern.adam_(p, m, v, 8, 2.0, lr=0.5, betas=(0.75, 0.96), eps=1e-6, step=None)
    g = 2.0 * zokern.normal(200, 8, device=backend.device).double()
    expected = -0.5 * (0.25 * g) / ((0.04 * g * g).sqrt() + 1e-6)
    assert (p.double() - expected).abs().max() < 1e-6


def test_rounds_16_bit_weights_once_and_stochastically(backend: Backend) -> None:
    """A step of 1/64 of a unit in the last place: to nearest nothing moves, stochastically 1/64 do."""
    n, unit = 1 << 14, 2.0**-8
    p = torch.ones(n, dtype=torch.bfloat16, device=backend.device)
    state = [torch.zeros(n, device=backend.device) for _ in range(2)]
    zokern.adam_(p, *(s.clone() for s in state), 3, 1.0, lr=unit / 64, step=1)
    assert (p == 1).all()
    zokern.adam_(p, *state, 3, 1.0, lr=unit / 64, step=1, rounding="stochastic")
    z = zokern.normal(n, 3, device=backend.device)
    down, up = (p[z > 0] < 1).float().mean(), (p[z < 0] > 1).float().mean()
    # below 1 the spacing is half as wide, so twice as many move; five standard errors
    assert abs(down - 1 / 64) < 5 * (1 / 64 / (n / 2)) ** 0.5
    assert abs(up - 1 / 128) < 5 * (1 / 128 / (n / 2)) ** 0.5
