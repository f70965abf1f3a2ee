"""The CUDA kernels on a device. Skipped without one."""

from __future__ import annotations

import ctypes
import itertools
import subprocess

import pytest
import torch

import zokern
from zokern import backends

DEVICE = "cuda"
REASON = (
    backends.unavailable_reason("cuda", DEVICE)
    if torch.cuda.is_available()
    else "no CUDA device: torch.cuda.is_available() is False"
)
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
TILE = 2048
SIZES = [1, 3, 8, 9, 255, TILE - 1, TILE, TILE + 1, 3 * TILE + 13, 1_000_003]


def weights(n, dtype, shift=0):
    base = torch.randn(n + shift, generator=torch.Generator().manual_seed(n)).mul_(0.02).to(dtype)
    return base.to(DEVICE)[shift:]


def check(params, seeds, scales, **options):
    """The move on the device against the reference on the host, bit for bit."""
    expected = [p.cpu() for p in params]
    with zokern.use_backend("reference"):
        zokern.perturb_(expected, seeds, scales, **options)
    with zokern.use_backend("cuda"):
        zokern.perturb_(params, seeds, scales, **options)
    for i, (a, b) in enumerate(zip(params, expected)):
        bits = BITS[a.element_size()]
        differ = (a.cpu().contiguous().view(bits) != b.contiguous().view(bits)).sum()
        assert differ == 0, f"tensor {i} {tuple(a.shape)} {a.dtype}: {differ} elements differ"


@pytest.fixture(scope="module")
def roots(sass, tmp_path_factory):
    """tests/cuda/square_root.cu: compiled here, or build/square_root.so as built elsewhere."""
    built = sass.ROOT / "build" / "square_root.so"
    if nvcc := sass.find_nvcc():
        built = tmp_path_factory.mktemp("roots") / "square_root.so"
        source = sass.ROOT / "tests" / "cuda" / "square_root.cu"
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in sass.ARCHS]
        flags = [*sass.FLAGS, *codes, "-Xcompiler=-fPIC", "-shared", "-cudart", "static"]
        subprocess.run([nvcc, *flags, str(source), "-o", str(built)], check=True)
    elif not built.exists():
        pytest.skip("no nvcc, and no build/square_root.so from a machine that has it")
    library = ctypes.CDLL(str(built))
    library.fill_radii.argtypes = [ctypes.c_void_p]
    return library


def test_square_root_is_correctly_rounded_everywhere(roots):
    wrong, compared = ctypes.c_ulonglong(), ctypes.c_ulonglong()
    assert roots.check_roots(ctypes.byref(wrong), ctypes.byref(compared)) == 0
    assert compared.value == 30 * 2**23 and wrong.value == 0


def test_every_radius_equals_the_hosts(roots, emulator):
    radii = torch.empty(2**23, device=DEVICE)
    assert roots.fill_radii(radii.data_ptr()) == 0
    assert torch.equal(radii.cpu(), emulator.radii())


def test_known_answers():
    with zokern.use_backend("cuda"):
        z = zokern.normal((8,), 0, device=DEVICE)
    known = "3e74061e 3fc105e8 3cb49ef9 bf1e04b1 bf2aa89e 3f0f178f c04925c8 beb8fe3e"
    assert [f"{word & 0xFFFFFFFF:08x}" for word in z.view(torch.int32).tolist()] == known.split()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("terms, decay", [(1, 1.0), (1, 0.75), (3, 1.0)])
def test_equals_reference(dtype, rounding, distribution, terms, decay):
    seeds, scales = [2**64 - 1, 7, 2**33 + 5][:terms], [1e-3, -2e-2, 0.5][:terms]
    check([weights(n, dtype) for n in SIZES], seeds, scales, decay=decay, rounding=rounding,
          distribution=distribution)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_offset_and_alignment(dtype):
    cases = list(itertools.product([0, 1, 8, 15], [0, 1, 3, 8], [1, 20, TILE + 9]))
    params = [weights(n, dtype, shift) for _, shift, n in cases]
    check(params, [11], [0.01], offsets=[offset for offset, _, _ in cases])


@pytest.mark.parametrize("offset", [2**32 - 40, 2**35 - 24, 2**62])
def test_far_offsets(offset):
    check([weights(3 * TILE + 5, torch.bfloat16)], [3], [0.1], offsets=[offset])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_and_mixed(dtype):
    params = [weights(24 * 36, dtype).view(24, 36).t(), weights(960, dtype).view(8, 12, 10)[:, ::2]]
    check([*params, weights(100, torch.bfloat16)], [4, 9], [0.1, 0.2], rounding="stochastic")


@pytest.mark.parametrize("count", [300, 641])
def test_long_lists(count):
    params = [weights(1 + i % 50, (torch.bfloat16, torch.float32)[i % 2]) for i in range(count)]
    check(params, [5], [0.01])


@pytest.mark.parametrize("terms", [64, 65, 4100])
def test_many_terms_round_once(terms):
    check([weights(300, torch.bfloat16)], list(range(terms)), [1e-3] * terms, rounding="stochastic")


def test_edge_values():
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        tiny, huge = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max
        edge = [0.0, -0.0, tiny, -tiny / 2, tiny / 8, huge, -huge, float("inf"), float("-inf")]
        cases = itertools.product(("nearest", "stochastic"), (1e-30, tiny, huge / 1024))
        for rounding, scale in cases:
            p = torch.tensor(edge * 40, dtype=dtype, device=DEVICE)
            check([p], [1], [scale], rounding=rounding)


def test_captured_graph_replays_the_move():
    p, q = weights(100_003, torch.bfloat16), weights(100_003, torch.bfloat16)
    with zokern.use_backend("cuda"):
        for terms in (1, 70):  # 70: the terms are in device memory
            seeds, scales = list(range(terms)), [0.01] * terms
            zokern.perturb_([weights(8, torch.bfloat16)], seeds, scales)  # loads the kernels
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                zokern.perturb_([p], seeds, scales)
            for _ in range(3):
                graph.replay()
                zokern.perturb_([q], seeds, scales)
    assert torch.equal(p, q)


def test_runs_on_the_current_stream():
    p = weights(50_000_000, torch.float32)
    expected = p + 3.0
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), zokern.use_backend("cuda"):
        torch.cuda._sleep(200_000_000)
        p.add_(3.0)
        zokern.perturb_([p], [1], [0.0])
    stream.synchronize()
    assert torch.equal(p, expected)


def test_allocates_nothing():
    p = weights(10_000_000, torch.bfloat16)
    with zokern.use_backend("cuda"):
        zokern.perturb_([p], [1], [0.1])
        torch.cuda.synchronize()
        free, reserved = torch.cuda.mem_get_info()[0], torch.cuda.memory_reserved()
        zokern.perturb_([p], [2], [0.1])
        torch.cuda.synchronize()
    assert (torch.cuda.mem_get_info()[0], torch.cuda.memory_reserved()) == (free, reserved)


def test_more_than_two_to_the_32_elements():
    n = 2**32 + 1003
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs 12 GiB of free device memory")
    p = torch.zeros(n, dtype=torch.bfloat16, device=DEVICE)
    with zokern.use_backend("cuda"):
        zokern.perturb_([p], [3], [1.0])
    for start in (0, 2**31 - 500, 2**32 - 500, n - 1000):
        piece = torch.zeros(1000, dtype=torch.bfloat16)
        with zokern.use_backend("reference"):
            zokern.perturb_([piece], [3], [1.0], offsets=[start])
        assert torch.equal(p[start : start + 1000].cpu(), piece), start
