"""The stream's published numbers, on every backend that has a way to be asked for them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import zokern
from tests.conftest import Backend, bits
from zokern import backends
from zokern.random import derive_seed, philox4x32
from zokern.reference.normal import normal_pair
from zokern.reference.philox import block_words, philox

ANSWERS = json.loads((Path(__file__).parent.parent / "known_answers" / "zk_v1.json").read_text())


def _ints(words: list[str]) -> list[int]:
    return [int(w, 16) for w in words]


def _join(low_high: list[str]) -> int:
    low, high = _ints(low_high)
    return high << 32 | low


@pytest.mark.parametrize("case", ANSWERS["philox4x32"], ids=lambda c: f"{c['rounds']}-{c['counter'][0]}")
def test_philox_on_integers_and_on_tensors(case: dict) -> None:
    counter, key, words = _ints(case["counter"]), _ints(case["key"]), _ints(case["words"])
    assert list(philox4x32(tuple(counter), tuple(key), case["rounds"])) == words
    tensors = philox([torch.tensor([c]) for c in counter], tuple(key), case["rounds"])
    assert [int(t) for t in tensors] == words


@pytest.mark.parametrize("case", ANSWERS["normals"], ids=lambda c: c["counter"][0])
def test_reference_normals_of_any_block(case: dict) -> None:
    block = _join(case["counter"][:2])
    block -= 1 << 64 if block >= 1 << 63 else 0
    stream, lane = _ints(case["counter"][2:])
    words = block_words(torch.tensor([block]), _join(case["key"]), stream, lane)
    z = torch.stack(normal_pair(words, words[:, [1, 0, 3, 2]]), dim=2).flatten()
    assert [b & 0xFFFFFFFF for b in bits(z).tolist()] == _ints(case["bits"])


@pytest.mark.parametrize("isa", backends.ISAS)
@pytest.mark.parametrize("case", ANSWERS["normals"], ids=lambda c: c["counter"][0])
def test_native_normals_of_any_block(case: dict, isa: str) -> None:
    from zokern import _C
    from zokern.native.cpu import available_isas

    if isa not in available_isas():
        pytest.skip(f"this CPU does not run {isa}")
    block = _join(case["counter"][:2])
    stream, lane = _ints(case["counter"][2:])
    tile = _C.cpu_normal_tile(_join(case["key"]), stream, lane, block // 32, backends.ISAS.index(isa))
    z = np.array(tile, dtype=np.float32)[block % 32 * 8 :][:8]
    assert z.view(np.uint32).tolist() == _ints(case["bits"])


@pytest.mark.parametrize("case", ANSWERS["elements"], ids=lambda c: f"offset-{c['offset']}")
def test_every_backend_draws_the_published_elements(backend: Backend, case: dict) -> None:
    z = zokern.normal(
        len(case["bits"]), case["seed"], stream=case["stream"], lane=case["lane"],
        offset=case["offset"], distribution=case["distribution"], device=backend.device,
    )  # fmt: skip
    assert [b & 0xFFFFFFFF for b in bits(z).tolist()] == _ints(case["bits"])


@pytest.mark.parametrize("case", ANSWERS["moves"], ids=lambda c: f"{c['dtype']}-{c['rounding']}")
def test_every_backend_makes_the_published_moves(backend: Backend, case: dict) -> None:
    dtype = getattr(torch, case["dtype"])
    p = torch.tensor(case["start"], dtype=torch.float64).to(dtype).to(backend.device)
    zokern.perturb_(
        [p], case["seeds"], case["scales"], decay=case["decay"], streams=[case["stream"]],
        offsets=[case["offset"]], rounding=case["rounding"],
    )  # fmt: skip
    width = p.element_size() * 8
    assert [b & ((1 << width) - 1) for b in bits(p).tolist()] == _ints(case["bits"])


def test_derived_seeds() -> None:
    for case in ANSWERS["derive_seed"]:
        assert derive_seed(case["run_seed"], case["step"], case["query"]) == case["seed"]
