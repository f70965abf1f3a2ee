"""The CUDA kernels' arithmetic, index and chunk maps against the reference, without a device.

tests/cuda/emulate.cpp runs the thread body that nvcc compiles over a whole grid on the host.
"""

from __future__ import annotations

import ctypes
import itertools
import signal
import struct

import pytest
import torch

import zokern
from tests.cuda.guarded import Guarded, around_the_carry, in_a_process

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
BITS = {
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float64: torch.int64,
}
TILE = 2048  # elements of a tile: 256 threads x 8
SIZES = [1, 3, 7, 8, 9, 255, TILE - 1, TILE, TILE + 1, 3 * TILE + 13]

KNOWN = {  # counter, seed, words (public vectors of Philox4x32-10), bits of the normals
    "zeros": ([0] * 4, 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
              "3e74061e 3fc105e8 3cb49ef9 bf1e04b1 bf2aa89e 3f0f178f c04925c8 beb8fe3e"),
    "ones": ([0xFFFFFFFF] * 4, 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd",
             "bfb8213e 3fbdc6fc bf3a0114 3f48fd98 c00b9960 3ded0f5a 3e96fd35 3f5d626f"),
    "pi": ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], 0x299F31D0A4093822,
           "d16cfe09 94fdcceb 5001e420 24126ea1",
           "be4ba1d4 bf07ef9c be37bf0e bd4b78d8 bf8c6554 402c0c35 3ffa7f76 3e5b86ba"),
}  # fmt: skip


def hexes(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def weights(n: int, dtype: torch.dtype, shift: int = 0, seed: int = 0) -> torch.Tensor:
    """n values of the size of weights, `shift` elements behind a 16-byte boundary."""
    generator = torch.Generator().manual_seed(seed + n)
    base = torch.empty(n + 32, dtype=dtype)
    start = (-base.data_ptr() // base.element_size()) % 16 + shift
    return base[start : start + n].copy_(torch.randn(n, generator=generator) * 0.02)


def reference(params, seeds, scales, **options):
    with zokern.use_backend("reference"):
        zokern.perturb_(params, seeds, scales, **options)


def assert_same_bits(actual, expected):
    for i, (a, b) in enumerate(zip(actual, expected)):
        differ = (a.contiguous().view(BITS[a.dtype]) != b.contiguous().view(BITS[b.dtype])).sum()
        assert differ == 0, f"tensor {i} {tuple(a.shape)} {a.dtype}: {differ} elements differ"


def check(emulator, params, seeds, scales, **options):
    expected = [p.clone() for p in params]
    reference(expected, seeds, scales, **options)
    assert emulator.perturb_(params, seeds, scales, **options) == 0
    assert_same_bits(params, expected)


@pytest.mark.parametrize("name", KNOWN)
def test_known_answers(emulator, name):
    counter, seed, words, normals = KNOWN[name]
    assert emulator.block(counter, seed) == (hexes(words), hexes(normals))


def test_radii_are_inside_the_fast_square_root(emulator):
    # csrc/cuda/sqrt.cuh drops sqrt.rn's check for arguments below 2^-101 and above 2^127.
    radii = emulator.radii()
    assert radii.min() > 3e-4 and radii.max() < 5.8  # so r^2 lies in [9e-8, 34]; NaN fails


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("terms, decay", [(1, 1.0), (1, 0.75), (3, 1.0)])
def test_equals_reference(emulator, dtype, rounding, distribution, terms, decay):
    seeds = [2**64 - 1, 7, 2**33 + 5][:terms]
    params = [weights(n, dtype) for n in SIZES]
    check(emulator, params, seeds, [1e-3, -2e-2, 0.5][:terms], decay=decay, rounding=rounding,
          distribution=distribution)  # fmt: skip
    assert emulator.launches == 1
    plain = rounding == "nearest" or dtype == torch.float32
    fast = terms == 1 and decay == 1.0 and distribution == "gaussian" and plain
    assert emulator.single_launches == (1 if fast and dtype != torch.float64 else 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_any_offset_and_alignment(emulator, dtype, rounding):
    # The vector path needs both the offset and the address on its grid; heads and tails are masked.
    cases = list(itertools.product([0, 1, 5, 8, 15], [0, 1, 3, 8], [1, 6, 20, TILE + 9]))
    params = [weights(n, dtype, shift) for _, shift, n in cases]
    check(emulator, params, [11], [0.01], offsets=[o for o, _, _ in cases], rounding=rounding)


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("offset", [2**32 - 40, 2**35 - 24, 2**35 - TILE, 2**40 + 3, 2**62])
def test_far_offsets(emulator, offset, distribution):
    # 2^35 elements: the block's low word carries into the high one inside a chunk.
    params = [weights(3 * TILE + 5, torch.bfloat16), weights(TILE, torch.float32)]
    check(emulator, params, [3], [0.1], offsets=[offset, offset + 8], distribution=distribution)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("source", ["in place", "in place, decayed", "zeros"])
def test_short_tensors_around_the_carry(emulator, source, distribution, rounding):
    # A thread's low word goes on up to 256 blocks behind the last of its chunk and may come out small.
    cases, memory = around_the_carry(), Guarded()
    decay = 0.75 if source == "in place, decayed" else 1.0
    params, expected = [], []
    for i, (offset, n) in enumerate(cases):
        dtype = (torch.float32, torch.bfloat16)[i % 2]
        start = torch.full((n,), 0.0, dtype=dtype) if source == "zeros" else weights(n, dtype)
        options = {"decay": decay, "offsets": [offset], "distribution": distribution, "rounding": rounding}
        params.append((memory.copy(start, offset % 8), options))
        expected.append(start)
        reference([start], [3], [0.1], streams=[4], **options)

    def run(i):
        p, options = params[i]
        read = [None] if source == "zeros" else [p]
        assert emulator.perturb_(read, [3], [0.1], streams=[4], out=[p], resident=1, **options) == 0

    in_a_process(run, len(params))
    memory.check()
    assert_same_bits([p for p, _ in params], expected)


def test_the_guard_sees_writes_outside_crashes_and_endless_loops():
    memory = Guarded()
    tensor = memory.copy(torch.zeros(5))
    address = tensor.data_ptr()
    in_a_process(lambda _: tensor.fill_(1.0), 1)
    memory.check()
    assert (tensor == 1).all()
    with pytest.raises(AssertionError, match="number 2 ended with SIGSEGV"):
        in_a_process(lambda i: i == 2 and ctypes.memset(address, 0, 4096), 4)
    with pytest.raises(AssertionError, match="number 0 did not end"):
        in_a_process(lambda _: signal.pause(), 1, seconds=0.2)
    ctypes.memset(address - 1, 0, 1)
    with pytest.raises(AssertionError, match="1 bytes written outside"):
        memory.check()


@pytest.mark.parametrize("resident", [1, 2, 7, 1000])
def test_does_not_depend_on_the_grid(emulator, resident):
    one, other = ([weights(n, torch.bfloat16) for n in (*SIZES, 40 * TILE + 1)] for _ in range(2))
    emulator.perturb_(one, [5], [0.01], resident=3)
    emulator.perturb_(other, [5], [0.01], resident=resident)
    assert_same_bits(one, other)


@pytest.mark.parametrize("count, launches", [(40, 1), (41, 1), (300, 1), (640, 1), (641, 2)])
def test_a_long_list_is_one_launch(emulator, count, launches):
    params = [weights(1 + i % 50, (torch.bfloat16, torch.float32)[i % 2]) for i in range(count)]
    check(emulator, params, [5], [0.01])
    assert emulator.launches == launches


def test_does_not_write_outside(emulator):
    for dtype, shift, n in itertools.product(DTYPES, (0, 1), (1, 9, TILE - 3)):
        base = torch.full((n + 64,), 77.0, dtype=dtype)
        emulator.perturb_([base[24 + shift : 24 + shift + n]], [5], [0.01], offsets=[3 + shift])
        assert (base[: 24 + shift] == 77).all() and (base[24 + shift + n :] == 77).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided(emulator, dtype):
    def views():
        base = weights(24 * 36 * 5, dtype)
        return [
            base[: 24 * 36].view(24, 36).t(),
            base[24 * 36 :].view(12, 36, 8)[:, 3:29:2, 1:7],
            base[: 24 * 5].view(24, 5)[:, 2].view(24, 1, 1),
            base[1000:1100].as_strided((2, 2, 2, 2, 2, 2), (40, 1, 20, 2, 10, 4)),
        ]

    for i in range(4):
        for rounding, distribution in (("nearest", "gaussian"), ("stochastic", "rademacher")):
            params, expected = views()[i : i + 1], views()[i : i + 1]
            options = dict(rounding=rounding, distribution=distribution, offsets=[13], decay=0.5)
            reference(expected, [4, 9], [0.1, 0.2], **options)
            emulator.perturb_(params, [4, 9], [0.1, 0.2], **options)
            assert_same_bits(params, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seeds", [[6], [6, 2]])
def test_out_of_place(emulator, dtype, seeds):
    params = [weights(n, dtype) for n in SIZES] + [weights(48, dtype).view(6, 8).t()]
    kept = [p.clone() for p in params]
    out, expected = ([torch.full(p.shape, float("nan"), dtype=dtype) for p in params] for _ in range(2))
    reference(params, seeds, [0.3] * len(seeds), out=expected)
    emulator.perturb_(params, seeds, [0.3] * len(seeds), out=out)
    assert_same_bits(out, expected)
    assert_same_bits(params, kept)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_out_of_place_between_layouts(emulator, dtype):
    # Dimensions may be joined only where both sides step through them without a gap.
    source = weights(20 * 16, dtype).view(20, 16)
    pairs = [(source[:, :12], torch.empty(20, 12, dtype=dtype)),
             (source[:, 3:15], torch.empty(12, 20, dtype=dtype).t()),
             (source[::2], torch.empty(10, 16, dtype=dtype)),
             (source[:, :8].contiguous(), torch.empty(20, 16, dtype=dtype)[:, ::2])]  # fmt: skip
    for p, out in pairs:
        expected = torch.empty_like(out)
        reference([p], [6], [0.3], out=[expected])
        emulator.perturb_([p], [6], [0.3], out=[out])
        assert_same_bits([out], [expected])


@pytest.mark.parametrize("shift", [0, 1, 4, 8])
@pytest.mark.parametrize("out_shift", [0, 2, 4])
def test_out_of_place_alignment(emulator, shift, out_shift):
    # Vectors only where both sides are aligned; the emulation traps on a misaligned one.
    params = [weights(TILE + 9, d, shift) for d in DTYPES]
    out = [weights(TILE + 9, d, out_shift, seed=1) for d in DTYPES]
    expected = [torch.empty_like(p) for p in params]
    reference(params, [6], [0.3], out=expected)
    emulator.perturb_(params, [6], [0.3], out=out)
    assert_same_bits(out, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lane", [0, 1])
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_null_source_reads_zeros(emulator, dtype, lane, distribution):
    out = [torch.full((n,), float("nan"), dtype=dtype) for n in SIZES]
    emulator.perturb_([None] * len(out), [9], [1.0], out=out, lane=lane, distribution=distribution)
    with zokern.use_backend("reference"):
        draws = [
            zokern.normal((n,), 9, stream=i, lane=lane, dtype=dtype, distribution=distribution)
            for i, n in enumerate(SIZES)
        ]
    assert_same_bits(out, draws)


@pytest.mark.parametrize("terms", [64, 65, 130])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_many_terms_round_once(emulator, terms, dtype):
    # More than 64 terms are read from memory; a 16-bit element is still rounded once.
    params = [weights(n, dtype) for n in (5, 64, TILE + 3)]
    check(emulator, params, list(range(terms)), [1e-3] * terms, rounding="stochastic")


def test_no_terms_only_decays(emulator):
    params = [torch.tensor([-0.0, 0.0, 3.0, -1.5] * 3, dtype=d) for d in DTYPES]
    check(emulator, params, [], [], decay=0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_zeros_tiny_and_huge_values(emulator, dtype, rounding):
    # A tiny move, so that subnormals, values near the largest one and infinities meet the rounding.
    tiny, huge = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max
    edge = [0.0, -0.0, tiny, -tiny / 2, tiny / 8, huge, -huge, float("inf"), float("-inf")]
    params = [torch.tensor(edge * 40, dtype=dtype)]
    for scale in (1e-30, tiny / 3, huge / 1024):
        check(emulator, params, [1], [scale], rounding=rounding)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_nan_stays_nan(emulator, rounding):
    params = [torch.full((20,), 1.0, dtype=d) for d in DTYPES]
    for p in params:
        p[3] = float("nan")
    emulator.perturb_(params, [1], [0.1], rounding=rounding)
    for p in params:
        assert p[3].isnan() and p.isnan().sum() == 1


def test_a_full_nan_stays_nan(emulator):
    # A device's arithmetic makes NaN with all mantissa bits set: random bits must not carry out of it.
    scale = struct.unpack("f", struct.pack("I", 0x7FFFFFFF))[0]
    params = [torch.full((20,), 1.0, dtype=d) for d in DTYPES]
    emulator.perturb_(params, [1], [scale], rounding="stochastic")
    assert all(p.isnan().all() for p in params)


def test_mixed_list(emulator):
    # Dense fp32, bf16 and fp16 share a launch; strided and fp64 tensors share another.
    params = [weights(TILE + i, dtype, shift=i % 3) for i, dtype in enumerate(DTYPES * 3)]
    params.append(weights(64, torch.bfloat16).view(8, 8).t())
    check(emulator, params, [1, 2], [0.1, 0.2], rounding="stochastic", streams=[7, 0, *range(2, 13)])
    assert emulator.launches == 2


def test_empty_list_and_empty_tensors(emulator):
    assert emulator.perturb_([], [1], [0.1]) == 0 and emulator.launches == 0
    assert emulator.perturb_([torch.empty(0)], [1], [0.1]) == 0 and emulator.launches == 0


def test_rejects_an_unknown_dtype(emulator, monkeypatch):
    monkeypatch.setitem(emulator.perturb_.__globals__["DTYPES"], torch.float32, 9)
    assert emulator.perturb_([torch.zeros(4)], [1], [0.1]) == 1  # ZK_BAD_DTYPE


@pytest.mark.parametrize("target", DTYPES, ids=str)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_out_of_another_dtype(emulator, target, rounding):
    params = [weights(n, source) for n, source in itertools.product((9, 700, TILE + 5), DTYPES)]
    params += [weights(40 * 30, source).view(40, 30).t() for source in DTYPES]
    out, expected = ([torch.full(p.shape, float("nan"), dtype=target) for p in params] for _ in range(2))
    options = {"decay": 0.75, "rounding": rounding, "offsets": [5 * i for i in range(len(params))]}
    reference(params, [7, 8], [1e-3, 0.5], out=expected, **options)
    assert emulator.perturb_(params, [7, 8], [1e-3, 0.5], out=out, **options) == 0
    assert_same_bits(out, expected)


def test_unknown_dtypes_are_refused(emulator, monkeypatch):
    monkeypatch.setitem(emulator.perturb_.__globals__["DTYPES"], torch.float32, 9)
    assert emulator.perturb_([torch.zeros(3)], [1], [1.0]) == 1
    assert emulator.perturb_([torch.zeros(3).double()], [1], [1.0], out=[torch.zeros(3)]) == 1


@pytest.mark.parametrize("terms", [1, 3, 100])
def test_decay_0_reads_nothing(emulator, terms):
    params = [weights(n, dtype).fill_(float("nan")) for n, dtype in itertools.product((9, TILE + 5), DTYPES)]
    params.append(torch.full((40, 30), float("nan")).t())
    expected = [torch.zeros_like(p) for p in params]
    seeds, scales = [*range(terms)], [1.0 / (1 + k) for k in range(terms)]
    reference(expected, seeds, scales)
    assert emulator.perturb_(params, seeds, scales, decay=0.0) == 0
    assert_same_bits(params, expected)
