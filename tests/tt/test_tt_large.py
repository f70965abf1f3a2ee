"""Memory of large outputs: kept for the next of its size, and never while anything still looks at it."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from zokern import tt_adapter
from zokern.native import large


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(large, "LARGE", 1 << 20)
    large._kept.clear()
    yield
    large._kept.clear()


def make(rows: int = 1024, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return large.empty((rows, 1024), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_an_ordinary_tensor(dtype):
    y = large.empty((2, 512, 1024), dtype)
    assert (y.shape, y.dtype, y.is_contiguous(), y._base) == ((2, 512, 1024), dtype, True, None)
    assert y.data_ptr() % 64 == 0
    y.fill_(3)
    assert torch.equal(y.clone(), torch.full((2, 512, 1024), 3, dtype=dtype))
    assert y.requires_grad_().sum().backward() is None
    assert torch.equal(y.grad, torch.ones_like(y))


def test_what_one_leaves_serves_the_next():
    y = make()
    memory = y.data_ptr()
    del y
    y = make(900)  # a little smaller
    assert y.data_ptr() == memory
    other = make()
    assert other.data_ptr() != memory


@pytest.mark.parametrize("hold", [lambda y: y[3:5], lambda y: y.numpy(), torch.Tensor.detach])
def test_memory_that_anything_looks_at_is_not_given_away(hold):
    y = make()
    memory = y.data_ptr()
    y.fill_(7)
    held = hold(y)
    del y
    gc.collect()
    other = make()
    assert other.data_ptr() != memory
    other.fill_(0)
    assert (held == 7).all()
    del held
    gc.collect()
    assert make().data_ptr() == memory


def test_one_block_at_most_is_kept():
    first, second = make(), make()
    del first, second
    assert len(large._kept) == 1
    small = make(400)  # less than half of it: the block is let go
    assert not large._kept
    del small
    assert len(large._kept) == 1
    assert make(2000) is not None
    assert len(large._kept) == 1


def test_small_outputs_come_from_torch():
    y = large.empty((4, 8), torch.float32)
    del y
    assert not large._kept


def test_threads_never_share_a_block():
    def use(mark: int) -> bool:
        right = True
        for _ in range(50):
            y = make(256)
            y.fill_(mark)
            right = right and bool((y == mark).all())
        return right

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(8)))


def test_an_adapters_output_is_right_in_memory_used_before(cpu):
    a = [torch.randn(1, 32, 4), torch.randn(4, 32, 2), torch.randn(2, 8, 1)]
    b = [torch.randn(1, 8, 4), torch.randn(4, 32, 2), torch.randn(2, 32, 1)]
    x = torch.randn(1024, 1024)
    once = tt_adapter(x, a, b, down_split=2, up_split=1)
    kept = once.clone()
    del once
    assert torch.equal(tt_adapter(x, a, b, down_split=2, up_split=1), kept)
    with torch.inference_mode():
        assert torch.equal(tt_adapter(x, a, b, down_split=2, up_split=1), kept)


def padded_rows(rows: int, columns: int, stride: int, offset: int) -> torch.Tensor:
    """A zeroed [rows, columns], its rows `stride` apart, `offset` floats behind the memory's start."""
    memory = torch.zeros(rows * stride + 64)
    start = -memory.data_ptr() // 4 % 16 + offset
    return memory[start:].as_strided((rows, columns), (stride, 1))


@pytest.mark.parametrize(("stride", "offset"), [(1024, 0), (1024, 1), (1040, 16), (1041, 0)])
def test_stores_past_the_caches_write_the_same(cpu, stride, offset):
    """From 24 MiB on where y is aligned; the same rows in parts stay below it."""
    a = [torch.randn(1, 32, 5), torch.randn(5, 32, 5), torch.randn(5, 8, 1)]
    b = [torch.randn(1, 8, 5), torch.randn(5, 32, 5), torch.randn(5, 32, 1)]
    rows = 6_203  # 24.2 MiB of y, and no whole number of tiles
    x, y = torch.randn(rows, 1024), padded_rows(rows, 1024, stride, offset)
    given = x.clone()

    def run(x: torch.Tensor, out: torch.Tensor) -> None:
        tt_adapter(x, a, b, down_split=2, up_split=1, activation="gelu", scale=0.5, out=out)

    run(x, y)
    expected = torch.empty_like(x)
    for first in range(0, rows, 1000):
        run(x[first : first + 1000], expected[first : first + 1000])
    assert torch.equal(y, expected)
    assert torch.equal(x, given)
