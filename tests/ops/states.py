"""One property for every op with state or masks, and for every way to run it: the reference's bits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis import HealthCheck, given, settings

import zokern
from tests.conftest import assert_same_bits
from tests.ops.test_perturb import DTYPES, SIZES, values

Tensors = list[torch.Tensor]

settings_of_a_list = {
    "seeds": st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3),
    "decay": st.sampled_from([1.0, 0.999, -0.5]),
    "stream": st.integers(0, 2**32 - 2),
    "offset": st.one_of(
        st.integers(0, 2000), st.integers(2**35 - 600, 2**35 + 600), st.integers(0, 2**63 - 5000)
    ),
    "sizes": st.lists(st.sampled_from(SIZES[1:]), min_size=1, max_size=2),
    "dtype": st.sampled_from(DTYPES),
    "distribution": st.sampled_from(["gaussian", "rademacher"]),
    "rounding": st.sampled_from(["nearest", "stochastic"]),
    "elsewhere": st.booleans(),
    # of params, out, and three states
    "layouts": st.lists(st.sampled_from(["dense", "dense", "spread"]), min_size=5, max_size=5),
    "scale": st.sampled_from([1e-3, -2.0, 1e-20, 1e4]),
}


def laid_out(flat: torch.Tensor, layout: str) -> torch.Tensor:
    """The same logical elements, dense or as every third element of a wider tensor."""
    if layout == "dense":
        return flat.clone()
    wide = torch.full((flat.numel(), 3), 7, device=flat.device).to(flat.dtype)
    wide[:, 1] = flat
    return wide[:, 1]


def moments(n: int, seed: int) -> torch.Tensor:
    """State of many magnitudes, subnormal and zero among them."""
    return values(n, torch.float32, seed)


Call = Callable[[dict[str, Any], Tensors, list[Tensors], dict[str, Any]], None]


def agrees(use: Callable[[], contextlib.AbstractContextManager[None]], device: str, call: Call,
           options: dict[str, Any], examples: int) -> None:  # fmt: skip
    """`call(case, params, states, keywords)` under `use()` writes what it does under the reference."""

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.fixed_dictionaries({**settings_of_a_list, **options}))
    def check(case: dict[str, Any]) -> None:
        count = len(case["sizes"])
        keywords = {
            "decay": case["decay"], "streams": [case["stream"] + i for i in range(count)],
            "offsets": [case["offset"] + 8 * i for i in range(count)], "rounding": case["rounding"],
        }  # fmt: skip

        def run(device: str, layouts: list[str]) -> tuple[Tensors, Tensors]:
            def made(kind: int, make: Callable[[int, int], torch.Tensor]) -> Tensors:
                flat = [make(n, 10 * kind + i) for i, n in enumerate(case["sizes"])]
                return [laid_out(t.to(device), layouts[kind]) for t in flat]

            params = made(0, lambda n, seed: values(n, case["dtype"], seed))
            states = [made(k, moments) for k in (2, 3, 4)]
            out = made(1, lambda n, seed: values(n, case["dtype"], seed)) if case["elsewhere"] else None
            call(case, params, states, {**keywords, "out": out})
            flat = [t.reshape(-1) for t in (*params, *(out or []), *(t for s in states for t in s))]
            memory = [
                t._base
                for t in (*params, *(out or []), *(t for s in states for t in s))
                if t._base is not None
            ]
            return flat, memory

        with zokern.use_backend("reference"):
            expected, _ = run("cpu", ["dense"] * 5)
        with use():
            actual, memory = run(device, case["layouts"])
        for a, e in zip(actual, expected, strict=True):
            assert_same_bits(a, e)
        for wide in memory:
            assert (wide[:, 0] == 7).all() and (
                wide[:, 2] == 7
            ).all()  # nothing beside the elements is written

    check()


ADAM = {
    "variant": st.sampled_from(["adam", "adamax", "adamm"]),
    "l2": st.sampled_from([0.0, 0.1]),
    "step": st.sampled_from([None, 1, 1000]),
}
MASKED = {"threshold": st.sampled_from([0.0, 1e-3, 0.33331, 65519.0, float("inf"), None])}
UPDATE = {"beta2": st.floats(0, 1), "orient": st.sampled_from([1.0, -1.0])}
MOMENTUM = {"alpha": st.floats(0, 1), "beta1": st.floats(0, 1)}


def scales(case: dict[str, Any]) -> list[float]:
    return [case["scale"] * (1 + k) for k in range(len(case["seeds"]))]


def adam(case: dict[str, Any], params: Tensors, states: list[Tensors], keywords: dict[str, Any]) -> None:
    squares = [[t.abs_() for t in s] for s in states[1:]]
    zokern.adam_(
        params, states[0], squares[0], case["seeds"], scales(case), lr=1e-2, step=case["step"],
        variant=case["variant"], max_exp_avg_sqs=squares[1] if case["variant"] == "adamm" else None,
        l2=case["l2"], displacements=[1e-3 * (k + 1) for k in range(len(case["seeds"]))],
        distribution=case["distribution"], **keywords,
    )  # fmt: skip


def probe(case: dict[str, Any], params: Tensors, states: list[Tensors], keywords: dict[str, Any]) -> None:
    zokern.adamu_probe_(
        params, states[0], case["seeds"][0], case["scale"], alpha=case["alpha"], beta1=case["beta1"], **keywords
    )  # fmt: skip


def update(case: dict[str, Any], params: Tensors, states: list[Tensors], keywords: dict[str, Any]) -> None:
    zokern.adamu_update_(
        params, states[0], case["seeds"][0], case["scale"], lr=0.1, alpha=case["alpha"], beta1=case["beta1"],
        beta2=case["beta2"], momentum_scale=case["orient"], displacement=-1e-3, **keywords,
    )  # fmt: skip


def masked(case: dict[str, Any], params: Tensors, states: list[Tensors], keywords: dict[str, Any]) -> None:
    """Without a threshold, masks: a tensor that is strided where the first state is."""
    if case["threshold"] is None:
        choice: dict[str, Any] = {"masks": [t > 0.0 for t in states[0]]}
        if states[0][0]._base is not None:
            choice = {"masks": [laid_out(m, "spread") for m in choice["masks"]]}
    else:
        choice = {"thresholds": case["threshold"]}
    zokern.perturb_masked_(
        params, case["seeds"], scales(case), distribution=case["distribution"], **choice, **keywords
    )  # fmt: skip


CASES: dict[str, tuple[Call, dict[str, Any]]] = {
    "adam_": (adam, ADAM),
    "adamu_probe_": (probe, MOMENTUM),
    "adamu_update_": (update, {**MOMENTUM, **UPDATE}),
    "perturb_masked_": (masked, MASKED),
}
