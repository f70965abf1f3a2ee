"""Scales and decay one a tensor: the bits of a call for each tensor."""

import pytest
import torch

import zokern
from tests.conftest import Backend, assert_same_bits


def start(device: str) -> list[torch.Tensor]:
    return [
        torch.randn(n, generator=torch.Generator().manual_seed(n)).to(dtype).to(device)
        for n, dtype in ((300, torch.float32), (5, torch.bfloat16), (0, torch.float32), (1000, torch.float64), (7, torch.float16))
    ]  # fmt: skip


ROWS = [[0.1, -0.2], [0.3, 0.0], [1.0, 1.0], [0.1, -0.2], [-0.0, 2.0]]
DECAYS = [1.0, 0.5, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("scales", [ROWS, [0.1, -0.2]], ids=["rows", "one row"])
@pytest.mark.parametrize("decay", [DECAYS, tuple(DECAYS), 0.75], ids=["list", "tuple", "one"])
@pytest.mark.parametrize("streams", [None, [9, 8, 7, 6, 5]])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_equals_a_call_for_each_tensor(
    backend: Backend, scales: list, decay: list | tuple | float, streams: list[int] | None, elsewhere: bool
) -> None:
    expected, params = start(backend.device), start(backend.device)
    for i, p in enumerate(expected):
        row = scales[i] if isinstance(scales[0], list) else scales
        factor = decay if isinstance(decay, float) else decay[i]
        stream = i if streams is None else streams[i]
        zokern.perturb_(p, [7, 8], row, decay=factor, streams=[stream], offsets=[i], rounding="stochastic")
    out = [torch.empty_like(p) for p in params] if elsewhere else None
    zokern.perturb_(
        params, [7, 8], scales, decay=decay, streams=streams, offsets=[*range(5)], rounding="stochastic", out=out
    )  # fmt: skip
    for actual, wanted in zip(params if out is None else out, expected):
        assert_same_bits(actual, wanted)
    if out is not None:
        for actual, wanted in zip(params, start(backend.device)):
            assert_same_bits(actual, wanted)


def test_tensors_and_one_seed_say_rows_too() -> None:
    expected, params = start("cpu"), start("cpu")
    for i, p in enumerate(expected):
        zokern.perturb_(p, 7, ROWS[i][1], decay=DECAYS[i], streams=[i])
    zokern.perturb_(
        params, 7, torch.tensor(ROWS, dtype=torch.float64)[:, 1:], decay=torch.tensor(DECAYS, dtype=torch.float64)
    )  # fmt: skip
    for actual, wanted in zip(params, expected):
        assert_same_bits(actual, wanted)


def test_fill_takes_rows() -> None:
    params, expected = start("cpu"), start("cpu")
    zokern.normal_(params, 7, [[row[1]] for row in ROWS])
    for i, p in enumerate(expected):
        zokern.normal_(p, 7, ROWS[i][1], streams=[i])
    for actual, wanted in zip(params, expected):
        assert_same_bits(actual, wanted)


def test_a_wrong_entry_leaves_all_as_it_was() -> None:
    params = start("cpu")
    for scales, decay, message in (
        (ROWS[:4], 1.0, "scales has 4 rows for 5 tensors"),
        ([*ROWS[:4], [1.0]], 1.0, r"scales\[4\] has 1 entries for 2 seeds"),
        (ROWS, [*DECAYS[:4], float("nan")], r"decay\[4\] must be finite"),
        (ROWS, DECAYS[:4], "decay has 4 entries for 5 tensors"),
    ):
        with pytest.raises(ValueError, match=message):
            zokern.perturb_(params, [7, 8], scales, decay=decay)
    for actual, wanted in zip(params, start("cpu")):
        assert_same_bits(actual, wanted)
