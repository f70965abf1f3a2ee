"""Philox4x32-10 and the counter layout of the zk-v1 stream, as Triton device functions.

    key     = (seed & 0xffffffff, seed >> 32)
    counter = (b & 0xffffffff, b >> 32, stream, lane)        b: 64-bit block index

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11. `tl.philox` is not used
because a block counter has 64 bits: a tensor may begin beyond element 2**35 of its stream.
"""

# mypy: allow-untyped-defs
# (annotations of device functions are Triton's, and only on arguments that need one)

import triton
import triton.language as tl

ROUNDS = tl.constexpr(10)
M0 = tl.constexpr(0xD2511F53)
M1 = tl.constexpr(0xCD9E8D57)
W0 = tl.constexpr(0x9E3779B9)
W1 = tl.constexpr(0xBB67AE85)


@triton.jit
def philox(c0, c1, c2, c3, key0, key1):
    """Encrypts the counter; all operands uint32, scalars or blocks."""
    for _ in tl.static_range(ROUNDS):
        # a 64-bit product is one wide multiply: 2.4 instructions an element fewer on sm_90 than
        # `umulhi` and `mul` (Triton 3.9)
        product0 = c0.to(tl.uint64) * M0
        product1 = c2.to(tl.uint64) * M1
        high0 = (product0 >> 32).to(tl.uint32)
        high1 = (product1 >> 32).to(tl.uint32)
        low0 = product0.to(tl.uint32)
        low1 = product1.to(tl.uint32)
        c0 = high1 ^ c1 ^ key0
        c2 = high0 ^ c3 ^ key1
        c1 = low1
        c3 = low0
        # the keys wrap on purpose
        key0 = tl.add(key0, W0, sanitize_overflow=False)
        key1 = tl.add(key1, W1, sanitize_overflow=False)
    return c0, c1, c2, c3


@triton.jit
def block_words(block, seed, stream, lane):
    """Words w0..w3 of the blocks under `seed` (both uint64; stream and lane are uint32 scalars)."""
    return philox(
        block.to(tl.uint32),
        (block >> 32).to(tl.uint32),
        stream,
        lane,
        seed.to(tl.uint32),
        (seed >> 32).to(tl.uint32),
    )
