"""The stream in Triton: known answers of zk-v1, then equality with the reference."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from zokern import reference, triton_kernels

OPS, perturb = triton_kernels.OPS, triton_kernels.perturb
philox = triton_kernels.philox.philox
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
# counter, key, words: the generator's published vectors
PHILOX = {
    "zeros": ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "pi": (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
}
# the eight normals of the block at those counters
NORMALS = {
    "zeros": "3e74061e 3fc105e8 3cb49ef9 bf1e04b1 bf2aa89e 3f0f178f c04925c8 beb8fe3e",
    "ones": "bfb8213e 3fbdc6fc bf3a0114 3f48fd98 c00b9960 3ded0f5a 3e96fd35 3f5d626f",
    "pi": "be4ba1d4 bf07ef9c be37bf0e bd4b78d8 bf8c6554 402c0c35 3ffa7f76 3e5b86ba",
}


@triton.jit
def words_kernel(out, c0, c1, c2, c3, key0, key1):
    one = tl.arange(0, 1).to(tl.uint32)
    w0, w1, w2, w3 = philox(
        one + c0.to(tl.uint32), one + c1.to(tl.uint32), one + c2.to(tl.uint32),
        one + c3.to(tl.uint32), key0.to(tl.uint32), key1.to(tl.uint32),
    )  # fmt: skip
    index = tl.arange(0, 1)
    tl.store(out + index, w0.to(tl.int64))
    tl.store(out + 1 + index, w1.to(tl.int64))
    tl.store(out + 2 + index, w2.to(tl.int64))
    tl.store(out + 3 + index, w3.to(tl.int64))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(BITS[tensor.element_size()])


def hex_words(tensor: torch.Tensor) -> str:
    return " ".join(f"{word & 0xFFFFFFFF:08x}" for word in tensor.tolist())


@pytest.mark.parametrize("name", PHILOX)
def test_philox_known_answers(name: str) -> None:
    counter, key, words = PHILOX[name]
    out = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    words_kernel[(1,)](out, *counter, *key)
    assert hex_words(out) == words


@pytest.mark.parametrize("name", PHILOX)
def test_normals_known_answers(name: str) -> None:
    """Launched as the backend does: element offsets do not reach the highest blocks."""
    counter, key, _ = PHILOX[name]
    out = torch.full((8,), float("nan"), device=DEVICE)
    block, seed = counter[0] | counter[1] << 32, key[0] | key[1] << 32
    perturb.normal_kernel[(1,)](
        out, (), (), 8, 0, block, counter[2], counter[3], seed,
        GAUSSIAN=True, BLOCK=perturb.BLOCK, **perturb.OPTIONS,
    )  # fmt: skip
    assert hex_words(bits(out)) == NORMALS[name]


def test_rademacher_known_answers() -> None:
    """The first 128 signs are the bits of the first block's words, lowest first."""
    out = torch.full((128,), float("nan"), device=DEVICE)
    OPS["normal_"](out, 0, 0, 0, 0, "rademacher")
    words = [int(word, 16) for word in PHILOX["zeros"][2].split()]
    assert out.tolist() == [1.0 - 2.0 * (words[e >> 5] >> (e & 31) & 1) for e in range(128)]


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_normal_equals_reference(dtype: torch.dtype, distribution: str) -> None:
    # (elements, seed, stream, lane, offset)
    cases = [
        (1, 0, 0, 0, 0),
        (7, 2**64 - 1, 2**32 - 1, 0, 5),  # inside two octets
        (perturb.BLOCK - 3, 2**63, 2**31, 1, 3),  # exactly one program
        (perturb.BLOCK + 1, 1, 5, 2, 127),
        (1000, 2**32 + 1, 3, 2**32 - 1, 2**63 - 1000),
    ]
    for n, *identity in cases:
        ours = torch.full((n,), float("nan"), dtype=dtype, device=DEVICE)
        theirs = torch.empty_like(ours)
        OPS["normal_"](ours, *identity, distribution)
        reference.OPS["normal_"](theirs, *identity, distribution)
        assert torch.equal(bits(ours), bits(theirs)), (n, identity)


@pytest.mark.parametrize(("distribution", "carry"), [("gaussian", 2**35), ("rademacher", 2**39)], ids=str)
def test_block_counter_carries_into_its_high_word(distribution: str, carry: int) -> None:
    """A 32-bit block counter would repeat the stream's beginning from here on."""
    n = 3000
    ours = torch.empty(n, device=DEVICE)
    theirs = torch.empty_like(ours)
    OPS["normal_"](ours, 9, 2, 0, carry - 1001, distribution)
    reference.OPS["normal_"](theirs, 9, 2, 0, carry - 1001, distribution)
    assert torch.equal(ours, theirs)
    start = torch.empty(n - 1001, device=DEVICE)
    OPS["normal_"](start, 9, 2, 0, 0, distribution)
    assert not torch.equal(ours[1001:], start)


def test_normal_fills_strided_tensors_and_nothing_else() -> None:
    storage = torch.full((40, 70), float("nan"), device=DEVICE)
    out = storage[3:33:2, 5:50:3].t()
    OPS["normal_"](out, 4, 1, 0, 6, "gaussian")
    theirs = torch.empty(out.shape, device=DEVICE)
    reference.OPS["normal_"](theirs, 4, 1, 0, 6, "gaussian")
    assert torch.equal(out, theirs)
    assert int(storage.isnan().sum()) == storage.numel() - out.numel()
