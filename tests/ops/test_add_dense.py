"""`add_dense_`: the sum is PyTorch's, rounded once, with the bits of `perturb_` where rounding is stochastic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import zokern
from tests.conftest import assert_same_bits
from zokern.ops import add_dense_
from zokern.optim import dense as dense_updates
from zokern.optim.moves import Pass
from zokern.optim.perturbation import Directions, FullDirections
from zokern.reference.normal import rounding_bits
from zokern.reference.perturb import CHUNK, STOCHASTIC

SIXTEEN_BITS = [torch.bfloat16, torch.float16]
DTYPES = [torch.float32, torch.float64, *SIXTEEN_BITS]


def oracle(
    work: Pass, dense: Sequence[Tensor], scale: float, directions: Directions, rounding: str, seed: int
) -> None:
    """Dense updates as `MeZO` wrote them before there was an op, kept word for word."""

    def rounded(value: Tensor, dtype: torch.dtype, stream: int) -> Tensor:
        if rounding == "nearest":
            return value.to(dtype)
        flat = value.reshape(-1)
        result = torch.empty_like(flat, dtype=dtype)
        for start in range(0, flat.numel(), 1 << 20):
            piece = flat[start : start + (1 << 20)]
            bits = rounding_bits(start, piece.numel(), seed, stream, value.device)
            result[start : start + (1 << 20)] = STOCHASTIC[dtype](piece, bits)
        return result.view(value.shape)

    wide = [n for n, p in enumerate(work.source) if p.dtype in (torch.float32, torch.float64)]
    if wide:
        part = work.part(wide)
        directions.apply(part)
        torch._foreach_add_(part.target, [dense[n] for n in wide], alpha=scale)
    for n in sorted(set(range(len(work.source))) - set(wide)):
        source, target = work.source[n], work.target[n]
        value = [source.float()]
        directions.apply(replace(work, indices=[work.indices[n]], source=value, target=value))
        value[0].add_(dense[n], alpha=scale)
        target.copy_(rounded(value[0], target.dtype, work.indices[n]))


def tensors(dtype: torch.dtype) -> list[Tensor]:
    """One element, a row of odd length, a transposed and a sliced matrix, more than a piece."""
    return [
        torch.randn(()).to(dtype),
        torch.randn(1003).to(dtype),
        torch.randn(33, 17).to(dtype).t(),
        torch.randn(40, 21).to(dtype)[::2, 3:],
        torch.randn(CHUNK + 77).to(dtype),
        torch.randn(3, 1, 5).to(dtype),
    ]


def dense_for(params: list[Tensor]) -> list[Tensor]:
    wide = torch.float64 if params[0].dtype == torch.float64 else torch.float32
    return [torch.randn_like(p, dtype=wide) for p in params]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in place", "elsewhere"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_dense_update_has_the_bits_it_had_before_the_op(dtype, rounding, elsewhere):
    for terms, decay in (({7: 1e-3, 9: 0.5}, 0.75), ({7: 0.0}, 1.0), ({}, 0.9)):
        source = tensors(dtype)
        dense = dense_for(source)
        results = []
        for add in (oracle, dense_updates.add_):
            mine = [p.clone() for p in source]
            target = [torch.full_like(p, float("nan")) for p in source] if elsewhere else mine
            freshest = next(iter(terms), None)
            work = Pass([3, 5, 0, 2**32 - 1, 8, 9], 0, mine, target, decay, terms, rounding, freshest)
            add(work, dense, -0.0371, FullDirections("gaussian"), rounding, 2**64 - 3)
            results.append((mine, target))
        for old, new in zip(*results):
            for a, b in zip(new, old):
                assert_same_bits(a, b)


def test_bits_do_not_depend_on_threads():
    params, dense = tensors(torch.bfloat16), dense_for(tensors(torch.float32))
    results = []
    for threads in (1, 2):
        mine = [p.clone() for p in params]
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        add_dense_(mine, dense, 0.3, rounding="stochastic", seed=4)
        torch.set_num_threads(before)
        results.append(mine)
    for a, b in zip(*results):
        assert_same_bits(a, b)


def test_stochastic_rounding_is_that_of_perturb(backend):
    """Nothing to add: the bits of `perturb_`, at any place in the stream, however it is split."""
    for dtype in SIXTEEN_BITS:
        value = torch.randn(900)
        expected = value.to(torch.float32).clone()
        moved, ours = torch.empty(900, dtype=dtype), torch.empty(900, dtype=dtype)
        start = torch.randn(900).to(dtype)
        zokern.perturb_(start, [5], [0.1], streams=[6], offsets=[40], out=[moved], rounding="stochastic")
        zokern.perturb_(start.float(), [5], [0.1], streams=[6], offsets=[40], out=[expected])
        for first, last in ((0, 333), (333, 900)):
            add_dense_(
                expected[first:last], torch.zeros(last - first), 1.0, rounding="stochastic", seed=5,
                streams=[6], offsets=[40 + first], out=ours[first:last],
            )  # fmt: skip
        assert_same_bits(ours, moved)


def test_it_is_served_whatever_backend_is_asked_for(backend):
    p = torch.zeros(5)
    add_dense_(p, torch.ones(5), 0.5)
    assert torch.equal(p, torch.full((5,), 0.5))


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_momentum_under_a_backend_asked_for(name):
    weight = torch.nn.Parameter(torch.ones(40, dtype=torch.bfloat16))
    optimizer = zokern.optim.MeZO([weight], lr=0.1, momentum=0.9)
    with zokern.use_backend(name):
        for _ in range(2):
            optimizer.step(lambda: float((weight.float() ** 2).sum()))
    assert not torch.equal(weight, torch.ones_like(weight))


def test_empty_lists_and_tensors():
    add_dense_([], [], 1.0)
    p = [torch.zeros(0), torch.zeros(3)]
    add_dense_(p, [torch.zeros(0), torch.ones(3)], 2.0)
    assert torch.equal(p[1], torch.full((3,), 2.0))


def test_autograd_is_told():
    p = torch.zeros(3)
    version = p._version
    add_dense_(p, torch.ones(3), 1.0)
    assert p._version > version


def test_fake_tensors_go_through_the_op():
    with torch._subclasses.fake_tensor.FakeTensorMode():
        params, out = [torch.zeros(3)], [torch.zeros(3, dtype=torch.bfloat16)]
        torch.ops.zokern.add_dense_(params, [torch.ones(3)], 1.0, 0, [0], [0], "nearest")
        torch.ops.zokern.add_dense_out(params, out, [torch.ones(3)], 1.0, 0, [0], [0], "stochastic")


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, r"scale must be finite, got nan", {"scale": float("nan")}),
        (ValueError, "rounding must be one of 'nearest', 'stochastic', got 'up'", {"rounding": "up"}),
        (ValueError, "needs a seed", {"rounding": "stochastic"}),
        (ValueError, r"seed must be in \[0, 2\*\*64\), got -1", {"rounding": "stochastic", "seed": -1}),
        (ValueError, "dense has 2 tensors for 1", {"dense": [torch.zeros(4), torch.zeros(4)]}),
        (
            ValueError,
            r"dense\[0\] has shape torch.Size\(\[3\]\), params\[0\] has torch.Size\(\[4\]\)",
            {"dense": torch.zeros(3)},
        ),
        (TypeError, r"dense\[0\] has dtype torch.bfloat16", {"dense": torch.zeros(4).bfloat16()}),
        (TypeError, r"dense\[0\] has dtype torch.float64", {"dense": torch.zeros(4).double()}),
        (TypeError, r"out\[0\] has dtype torch.float64", {"out": torch.zeros(4).double()}),
        (ValueError, r"streams\[0\] must be in", {"streams": [2**32]}),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(error, message, arguments):
    p = torch.arange(4.0)
    with pytest.raises(error, match=message):
        add_dense_(**{"params": p, "dense": torch.ones(4), "scale": 1.0, **arguments})
    assert torch.equal(p, torch.arange(4.0))


def test_overlap_and_grad_mode_are_refused():
    memory = torch.zeros(8)
    with pytest.raises(ValueError, match=r"params\[0\] and dense\[0\] overlap"):
        add_dense_(memory[:5], memory[3:], 1.0)
    weight = torch.nn.Parameter(torch.zeros(4))
    with pytest.raises(RuntimeError, match=r"params\[0\] requires grad"):
        add_dense_(weight, torch.ones(4), 1.0)
