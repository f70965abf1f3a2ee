"""`perturb_` in Triton equals the reference bit for bit, whatever the layout, dtype and place."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

import zokern
from zokern import reference, triton_kernels

OPS, perturb = triton_kernels.OPS, triton_kernels.perturb
availability, unavailable_reason = triton_kernels.availability, triton_kernels.unavailable_reason
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SIXTEEN = [torch.bfloat16, torch.float16]
SEEDS = [2**64 - 1, 0, 2**63, 12345, 2**32, 77, 1]
SCALES = [1e-3, -0.25, 3.0, 1e-30, -1e-3, 0.5, 0.0]


def fp32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


def filled(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Equal bits; a NaN equals a NaN, whose payload IEEE arithmetic does not define."""
    if not torch.equal(ours.isnan(), theirs.isnan()):
        return False
    kind = BITS[ours.element_size()]
    return torch.equal(*(t.nan_to_num(0.0, torch.inf, -torch.inf).view(kind) for t in (ours, theirs)))


def check(
    p: torch.Tensor, out: torch.Tensor | None = None, *, terms: int = 1, decay: float = 1.0,
    stream: int = 3, offset: int = 0, distribution: str = "gaussian", rounding: str = "nearest",
    seeds: list[int] = SEEDS, scales: list[float] = SCALES,
) -> torch.Tensor:  # fmt: skip
    """Runs Triton on `p` (into `out`) and the reference on a dense copy; returns the result."""
    theirs = p.clone(memory_format=torch.contiguous_format)
    numbers = (seeds[:terms], [fp32(s) for s in scales[:terms]], fp32(decay), [stream], [offset])
    target = p if out is None else out
    OPS["perturb_"]([p], [target], *numbers, distribution, rounding)
    reference.OPS["perturb_"]([theirs], [theirs], *numbers, distribution, rounding)
    assert same(target.contiguous(), theirs)
    return target


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize(
    ("dtype", "rounding"), [*((d, "nearest") for d in DTYPES), *((d, "stochastic") for d in DTYPES)]
)
def test_equals_reference(dtype: torch.dtype, rounding: str, distribution: str) -> None:
    # none, one, up to four scalars, a table of more; 0 seeds leave nothing to key random bits
    for terms in (0, 1, 2, 4, 5, 7)[rounding == "stochastic" :]:
        for decay in (1.0, 0.9):
            check(
                filled((3001,), dtype), terms=terms, decay=decay, offset=11,
                distribution=distribution, rounding=rounding,
            )  # fmt: skip


@pytest.mark.parametrize("offset", [0, 3, 8, 127, 2**35 - 20001, 2**63 - 2**20], ids=str)
def test_any_size_from_any_offset(offset: int) -> None:
    block = perturb.BLOCK
    sizes = [
        *(1, 5, 7, 8, 9),  # within, up to and over an octet
        *(block - 3, block - 1, block, block + 1),  # one program or two, head included or not
        3 * block + 5,  # programs that need no mask
    ]
    for n in sizes:
        storage = filled((n + 32,), torch.bfloat16, seed=n)
        before = storage.clone()
        check(storage[16:-16], offset=offset)
        assert torch.equal(storage[:16], before[:16]) and torch.equal(storage[-16:], before[-16:])


def strided_views(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    wide = filled((3, 2, 4, 3, 2, 3, 2, 5), dtype)
    return {
        "transposed": filled((60, 90), dtype).t(),
        "every third": filled((3000,), dtype)[1::3],
        "inner block": filled((50, 64), dtype)[4:41, 8:40],
        "eight dimensions": wide.permute(7, 2, 5, 0, 3, 6, 1, 4),
        "channels last": filled((2, 6, 9, 7), dtype).to(memory_format=torch.channels_last),
        "sizes of one": filled((1, 30, 1, 40), dtype)[:, ::2].transpose(1, 3),
        "one element": filled((4, 4), dtype)[2:3, 1:2],
        "scalar": filled((), dtype),
        "two programs": filled((170, 2, 100), dtype)[:, 1].t(),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", strided_views(torch.float32))
def test_strided_tensors(name: str, dtype: torch.dtype) -> None:
    view = strided_views(dtype)[name]
    rest = view.untyped_storage().nbytes() // view.element_size() - view.numel()
    storage = torch.as_strided(view, (rest + view.numel(),), (1,), 0)
    marked = torch.ones_like(storage, dtype=torch.bool)
    torch.as_strided(marked, view.shape, view.stride(), view.storage_offset()).fill_(False)
    before = storage.clone()
    check(view, offset=5, terms=2, decay=0.5)
    assert torch.equal(storage[marked], before[marked])


@pytest.mark.parametrize("layouts", ["dense to strided", "strided to dense", "two strides"])
def test_out_of_place_leaves_params(layouts: str) -> None:
    p = filled((70, 30), torch.float32)
    out = torch.full((70, 30), float("nan"), device=DEVICE)
    if layouts != "dense to strided":
        p = filled((30, 70), torch.float32).t()
    if layouts != "strided to dense":
        out = torch.full((70, 60), float("nan"), device=DEVICE)[:, ::2]
    before = p.clone()
    check(p, out, offset=2, terms=3, rounding="stochastic")
    assert torch.equal(p, before)


def test_huge_strided_tensors_go_in_runs_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 2**31 elements; here the limit is small, so that rows, too, are over it."""
    for limit in (50, 20, 5):  # a plane has 35 elements, a row 7
        monkeypatch.setattr(perturb, "STRIDED_LIMIT", limit)
        check(filled((4, 7, 10), torch.float32).transpose(1, 2)[:, ::2], offset=3)
        normals = torch.empty(4, 5, 14, device=DEVICE)[:, :, ::2]
        expected = torch.empty(4, 5, 7, device=DEVICE)
        OPS["normal_"](normals, 1, 2, 0, 3, "gaussian")
        reference.OPS["normal_"](expected, 1, 2, 0, 3, "gaussian")
        assert torch.equal(normals, expected)


@triton.jit
def offsets_kernel(out, start: tl.int64, n: tl.int64, sizes, strides, BLOCK: tl.constexpr):
    start = start.to(tl.int64)
    index = tl.arange(0, BLOCK)
    offset = perturb.offsets(start, sizes, strides, BLOCK)
    tl.store(out + index, tl.where(perturb.inside(start, n, BLOCK), offset, -1))


@pytest.mark.parametrize(
    ("start", "n", "sizes", "strides"),
    [
        (2**40 - 100, 2**40 + 50, (), ()),
        (2**32 - 7, 2**50, (), ()),
        (-5, 100, (), ()),
        (2**31 - 200, 2**31 - 1, (2**16, 2**15), (2**33, 3)),
        (2**31 - 200, 2**31 - 1, (2**16, 2**15), (2**20, 3)),  # 32-bit stride, wide product
        (-3, 210, (7, 30), (2, 2**20)),
    ],
)
def test_memory_offsets_have_64_bits(
    start: int, n: int, sizes: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    """Tensors this large do not fit a test, so the index arithmetic is run by itself."""
    out = torch.empty(256, dtype=torch.int64, device=DEVICE)
    offsets_kernel[(1,)](out, start, n, sizes, strides, BLOCK=256)
    for k, offset in enumerate(out.tolist()):
        index, expected = start + k, 0
        if not sizes:
            expected = index
        for size, stride in zip(reversed(sizes), reversed(strides)):
            expected += index % size * stride
            index //= size
        assert offset == (expected if 0 <= start + k < n else -1)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of overflow under the interpreter
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
def test_every_16_bit_value(dtype: torch.dtype, rounding: str) -> None:
    """Subnormals are not flushed, infinities stay, NaN stays NaN, the largest values overflow."""
    p = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).to(DEVICE)
    smallest = 2.0**-133 if dtype == torch.bfloat16 else 2.0**-24
    # alone, by about a unit of the smallest subnormal, by about a unit of the largest value
    for scale in (0.0, smallest, 2.0**119 if dtype == torch.bfloat16 else 16.0):
        for decay in (1.0, 0.4375):
            result = check(p.clone(), scales=[scale], decay=decay, rounding=rounding)
            if scale == 0.0 and decay == 1.0:
                kept = p != 0  # -0 + 0 is +0
                assert torch.equal(result[kept].nan_to_num(), p[kept].nan_to_num())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_fp32_keeps_subnormals_and_overflows() -> None:
    p = torch.tensor([0.0, -0.0, 1e-45, -1e-40, 1e-38, 3.4e38, -3.4e38, torch.inf, torch.nan])
    for scale in (0.0, 1e-45, 1e-40, 1e38):
        for decay in (1.0, 0.5, 1e-40):
            check(p.repeat(30).to(DEVICE), scales=[scale], decay=decay)


@pytest.mark.parametrize("dtype", SIXTEEN, ids=str)
def test_stochastic_rounding_is_unbiased_and_between_neighbours(dtype: torch.dtype) -> None:
    """A fixed value 3/8 of the way between two neighbours goes up in 3/8 of the cases."""
    n = 1 << 16
    unit = 2.0**-7 if dtype == torch.bfloat16 else 2.0**-10
    p = torch.ones(n, dtype=dtype, device=DEVICE)
    factor = 1 + 0.375 * unit
    OPS["perturb_"]([p], [p], [5], [0.0], fp32(factor), [0], [0], "gaussian", "stochastic")
    up = (p.double() == 1 + unit).sum().item()
    assert up + (p == 1).sum().item() == n
    assert abs(up - 0.375 * n) < 5 * (n * 0.375 * 0.625) ** 0.5


def test_few_seeds_allocate_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*_: Any) -> torch.Tensor:
        raise AssertionError("a table of terms was made")

    monkeypatch.setattr(perturb, "_term_table", allocate)
    for terms in (0, 1, 4):
        check(filled((100,), torch.float32), terms=terms)
    with pytest.raises(AssertionError, match="table"):
        check(filled((100,), torch.float32), terms=5)


def test_lists_name_their_streams_and_offsets() -> None:
    """A tensor cut into pieces that name their place is moved as the whole."""
    whole = filled((5000,), torch.bfloat16)
    pieces = [whole[:1003].clone(), whole[1003:1004].clone(), whole[1004:].clone()]
    arguments: tuple[Any, ...] = ([8, 9], [0.5, fp32(-0.1)], 1.0)
    OPS["perturb_"]([whole], [whole], *arguments, [6], [40], "gaussian", "stochastic")
    places = ([6, 6, 6], [40, 1043, 1044])
    OPS["perturb_"](pieces, pieces, *arguments, *places, "gaussian", "stochastic")
    assert torch.equal(torch.cat(pieces), whole)


def test_mixed_list_through_the_op() -> None:
    shapes = [(17,), (4, 5), (1,), (0, 3), (2000,)]
    lists = [[filled(s, d) for s, d in zip(shapes, itertools.cycle(DTYPES))] for _ in range(2)]
    for backend, tensors in zip(("triton", "reference"), lists):
        with zokern.use_backend(backend), torch.no_grad():
            zokern.perturb_(tensors, [1, 2], [1e-2, -3.0], decay=0.99, rounding="stochastic")
    assert all(same(ours, theirs) for ours, theirs in zip(*lists))
    with zokern.use_backend("triton"):
        ours = zokern.normal((3, 50), 11, stream=4, offset=1, device=DEVICE)
    with zokern.use_backend("reference"):
        assert torch.equal(ours, zokern.normal((3, 50), 11, stream=4, offset=1, device=DEVICE))


def test_unavailable_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unavailable_reason(DEVICE) is None
    assert unavailable_reason("mps") == "the triton backend serves cuda devices, not mps"
    monkeypatch.setattr(availability, "INTERPRETED", False)
    assert "TRITON_INTERPRET=1" in (unavailable_reason("cpu") or "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert unavailable_reason("cuda") == "PyTorch sees no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "compute capability 7.5" in (unavailable_reason("cuda") or "")
    monkeypatch.setattr(triton, "__version__", "3.2.0")
    assert unavailable_reason("cuda") == "triton 3.2.0 is installed; 3.3 or newer is needed"
