"""The query dimension and the noise made inside: the loop, the batch and the fused form are one."""

import pytest
import torch

import zokern
from tests.conftest import assert_same_bits
from tests.tt.conftest import adapter, adapter_to, in_one_buffer, make_cores, run_adapter, to

SEEDS, SCALES = [5, 5, 2**64 - 1], [1e-3, -1e-3, 0.25]


def of_query(a: dict, p: int) -> dict:
    def pick(value: object) -> object:
        if isinstance(value, list):
            return [core[p] for core in value]
        return value[p] if isinstance(value, torch.Tensor) else value

    return {name: pick(value) for name, value in a.items()}


def perturbed_copies(flat: torch.Tensor, a: dict, stream: int, offset: int) -> dict:
    """The adapter's P perturbed copies, written out by `perturb_` on the whole buffer."""
    copies = flat.expand(len(SEEDS), -1).clone()
    for copy, seed, scale in zip(copies, SEEDS, SCALES):
        zokern.perturb_([flat], [seed], [scale], streams=[stream], offsets=[offset], out=[copy])
    at, views = 0, []
    for t in [*a["down"], a["down_bias"], *a["up"], a["up_bias"]]:
        views.append(copies[:, at : at + t.numel()].unflatten(1, t.shape))
        at += t.numel()
    n = len(a["down"])
    return {**a, "down": views[:n], "down_bias": views[n], "up": views[n + 1 : -1],
            "up_bias": views[-1]}  # fmt: skip


@pytest.mark.parametrize("rows", [1, 4, 9])
def test_row_blocks_use_their_own_cores(tt_backend, rows):
    a = adapter_to(adapter([8, 8, 12], [4, 4, 4], queries=3), tt_backend.device)
    x = torch.randn(3 * rows, 2, 768, device=tt_backend.device)
    y = run_adapter(x, a)
    loop = [run_adapter(x[p * rows : (p + 1) * rows], of_query(a, p)) for p in range(3)]
    if tt_backend.name == "cpu":
        assert_same_bits(y, torch.cat(loop))
    else:
        torch.testing.assert_close(y, torch.cat(loop), rtol=1e-5, atol=1e-5)


def test_linear_row_blocks_use_their_own_cores(tt_backend):
    device = tt_backend.device
    cores = to(make_cores([4, 6, 3, 5], 3, queries=4), device)
    bias, shared = torch.randn(4, 15, device=device), torch.randn(15, device=device)
    x = torch.randn(8, 24, device=device)
    for b in (None, bias, shared):
        y = zokern.tt_linear(x, cores, 2, b)
        for p in range(4):
            own = b if b is None or b.dim() == 1 else b[p]
            alone = zokern.tt_linear(x[2 * p : 2 * p + 2], [c[p] for c in cores], 2, own)
            torch.testing.assert_close(y[2 * p : 2 * p + 2], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stream, offset", [(0, 0), (7, 133), (2**32 - 1, 2**40 + 5)])
def test_noise_equals_perturbed_copies_bit_for_bit(tt_backend, stream, offset):
    flat, a, offsets = in_one_buffer(adapter([4, 6], [2, 3]))
    explicit = adapter_to(perturbed_copies(flat, a, stream, offset), tt_backend.device)
    stored, placed = flat.clone(), adapter_to(a, tt_backend.device)
    x = torch.randn(6, 24, device=tt_backend.device)
    noise = zokern.TTNoise(SEEDS, SCALES, [o + offset for o in offsets], stream)
    assert_same_bits(run_adapter(x, placed, noise=noise), run_adapter(x, explicit))
    assert_same_bits(flat, stored)


def test_linear_noise_equals_perturbed_copies(tt_backend):
    device = tt_backend.device
    cores, bias = to(make_cores([4, 6, 3, 5], 3), device), torch.randn(15, device=device)
    tensors, offsets = [*cores, bias], [3, 1000, 77, 400, 2**33]
    copies = []
    for t, offset in zip(tensors, offsets):
        stack = t.expand(3, *t.shape).clone()
        for copy, seed, scale in zip(stack, SEEDS, SCALES):
            zokern.perturb_([t], [seed], [scale], streams=[4], offsets=[offset], out=[copy])
        copies.append(stack)
    x = torch.randn(3, 2, 24, device=device)
    noise = zokern.TTNoise(SEEDS, SCALES, offsets, stream=4)
    y = zokern.tt_linear(x, cores, 2, bias, noise=noise)
    assert_same_bits(y, zokern.tt_linear(x, copies[:4], 2, copies[4]))
    signs = zokern.TTNoise(SEEDS, SCALES, offsets, stream=4, distribution="rademacher")
    assert not torch.equal(y, zokern.tt_linear(x, cores, 2, bias, noise=signs))


def test_noise_leaves_fixed_tensors_alone(tt_backend):
    device = tt_backend.device
    cores, bias = to(make_cores([4, 6, 3, 5], 3), device), torch.randn(15, device=device)
    x = torch.randn(3, 24, device=device)
    still = zokern.TTNoise(SEEDS, SCALES, [None] * 5)
    stored = [c.expand(3, *c.shape) for c in cores]
    assert_same_bits(zokern.tt_linear(x, cores, 2, bias, noise=still), zokern.tt_linear(x, stored, 2, bias))
    moved = [zokern.TTNoise(SEEDS, SCALES, [0 if i == k else None for i in range(5)]) for k in range(5)]
    results = [zokern.tt_linear(x, cores, 2, bias, noise=n) for n in (still, *moved)]
    for i, one in enumerate(results):
        assert all(not torch.equal(one, other) for other in results[i + 1 :])


def test_noise_does_not_depend_on_where_tensors_lie(cpu):
    """Views of one buffer are made in one run, scattered tensors one by one."""
    _, a, offsets = in_one_buffer(adapter([8, 8, 12], [4, 4, 4]))
    apart = adapter_to(a, "cpu")
    apart = {k: [c.clone() for c in v] if isinstance(v, list) else v for k, v in apart.items()}
    apart["up_bias"] = apart["up_bias"].clone()
    x = torch.randn(3, 768)
    noise = zokern.TTNoise(SEEDS, SCALES, offsets, stream=1)
    assert_same_bits(run_adapter(x, a, noise=noise), run_adapter(x, apart, noise=noise))


def test_noise_at_moves_to_another_layer():
    noise = zokern.TTNoise(SEEDS, SCALES, [1, 2], 3, "rademacher")
    moved = noise.at([9, None])
    assert moved == zokern.TTNoise(SEEDS, SCALES, [9, None], 3, "rademacher")
    assert noise.offsets == (1, 2)


def test_queries_do_not_depend_on_threads(cpu):
    """Fewer queries than threads, as many, more; with and without noise."""
    _flat, a, offsets = in_one_buffer(adapter([8, 8, 12], [4, 4, 4], ranks=16))
    before = torch.get_num_threads()
    x = torch.randn(3, 350, 768)
    noise = zokern.TTNoise(SEEDS, SCALES, offsets)
    try:
        torch.set_num_threads(1)
        one = run_adapter(x, a, noise=noise)
        for threads in (2, 3, 8):
            torch.set_num_threads(threads)
            assert_same_bits(run_adapter(x, a, noise=noise), one)
    finally:
        torch.set_num_threads(before)


def test_queries_in_place_and_strided(tt_backend):
    a = adapter_to(adapter([4, 6], [2, 3], queries=2), tt_backend.device)
    x = torch.randn(4, 3, 30, device=tt_backend.device)[..., :24]
    expected = run_adapter(x.contiguous(), a)
    assert run_adapter(x, a, out=x) is x
    assert_same_bits(x.contiguous(), expected)


def test_no_rows(tt_backend):
    a = adapter_to(adapter([4, 6], [2, 3], queries=2), tt_backend.device)
    assert run_adapter(torch.empty(0, 5, 24, device=tt_backend.device), a).shape == (0, 5, 24)
    assert run_adapter(torch.empty(2, 0, 24, device=tt_backend.device), a).shape == (2, 0, 24)
