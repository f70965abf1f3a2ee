"""ZO-AdaMU's direction: the paper's formula, its limits, and the same m_t in probe and update."""

from __future__ import annotations

import pytest
import torch

import zokern
from tests.conftest import Backend, assert_same_bits
from tests.ops.test_perturb import values


def noise(n: int, seed: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = (zokern.normal(n, seed, lane=lane, device=device).double() for lane in (0, 1))
    return first, second


def test_is_the_papers_formula(backend: Backend) -> None:
    """In float64, from the two lanes."""
    n, alpha, beta1, beta2, grad, lr = 500, 0.6, 0.8, 0.3, -1.7, 1e-2
    p, m = (0.1 * zokern.normal(n, seed, device=backend.device) for seed in (1, 2))
    n1, n2 = noise(n, 9, backend.device)
    a, b = alpha**0.5 * n1, m.double() + (1 - alpha) ** 0.5 * n2
    now = beta1 * a + (1 - beta1) * b
    v = beta2 * a**2 + (1 - beta2) * b**2
    probed = p.clone()
    zokern.adamu_probe_([probed], [m], 9, 0.01, alpha=alpha, beta1=beta1)
    assert (probed - (p + 0.01 * now)).abs().max() < 1e-7
    updated = probed.clone()
    zokern.adamu_update_(
        [updated], [m], 9, grad, lr=lr, alpha=alpha, beta1=beta1, beta2=beta2, displacement=-0.01,
        decay=0.999, sigma=1e-8,
    )  # fmt: skip
    expected = 0.999 * probed.double() - 0.01 * now - lr * grad * now / (v + 1e-8).sqrt()
    assert (updated - expected).abs().max() < 3e-7
    assert (m - now).abs().max() < 1e-6


def test_with_everything_at_one_the_update_is_a_sign(backend: Backend) -> None:
    p, m = values(500, torch.float32).to(backend.device), torch.ones(500, device=backend.device)
    moved = p.clone()
    settings = {"alpha": 1.0, "beta1": 1.0}
    zokern.adamu_probe_([moved], [m], 4, 0.5, **settings)
    plain = p.clone()
    zokern.perturb_([plain], 4, 0.5)
    assert_same_bits(moved, plain)
    moved = torch.zeros_like(p)
    zokern.adamu_update_([moved], [m], 4, 2.0, lr=0.1, beta2=1.0, sigma=1e-20, **settings)
    z = zokern.normal(500, 4, device=backend.device)
    assert_same_bits(m, z)
    assert (moved + 0.2 * z.sign()).abs().max() < 1e-6


def test_probe_leaves_the_state_and_the_update_stores_the_probes_direction(backend: Backend) -> None:
    m = values(700, torch.float32).to(backend.device)
    kept = m.clone()
    direction, updated = (torch.zeros(700, device=backend.device) for _ in range(2))
    zokern.adamu_probe_([direction], [m], 7, 1.0, alpha=0.4, beta1=0.7, streams=[3], offsets=[11])
    assert_same_bits(m, kept)
    place = {"streams": [3], "offsets": [11]}
    zokern.adamu_update_([updated], [m], 7, 1.0, lr=0.1, alpha=0.4, beta1=0.7, beta2=0.5, **place)
    assert_same_bits(m, direction)
    zokern.adamu_update_(
        [updated], [kept], 7, 1.0, lr=0.1, alpha=0.4, beta1=0.7, beta2=0.5, momentum_scale=-1.0, **place
    )
    assert_same_bits(kept, -direction)


@pytest.mark.parametrize("displacement", [-1e-3, 2e-3])
def test_restore_and_update_in_one_pass_are_the_two_passes(backend: Backend, displacement: float) -> None:
    start = [values(700, torch.float32, k).to(backend.device) for k in range(2)]
    settings = {"alpha": 0.4, "beta1": 0.7}
    (p, m), (q, k) = ([t.clone() for t in start] for _ in range(2))
    update = {"lr": 0.1, "beta2": 0.5, **settings}
    zokern.adamu_update_([p], [m], 7, 0.3, decay=0.9, displacement=displacement, **update)
    zokern.adamu_probe_([q], [k], 7, displacement, decay=0.9, **settings)
    zokern.adamu_update_([q], [k], 7, 0.3, **update)
    assert_same_bits(p, q)
    assert_same_bits(m, k)


def test_flip_and_restore_drift_by_rounding_only(backend: Backend) -> None:
    m = values(2000, torch.float32, 1).to(backend.device)
    p = (0.02 * zokern.normal(2000, 1, device=backend.device)).clone()
    start = p.clone()
    for scale in (1e-3, -2e-3, 1e-3):
        zokern.adamu_probe_([p], [m], 7, scale, alpha=0.4, beta1=0.7)
    reach = p.abs().max() + 1e-3 * (m.abs().max() + 12)
    assert (p - start).abs().max() <= 4 * 2**-24 * reach
