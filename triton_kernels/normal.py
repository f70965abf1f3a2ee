"""zk-v1 values from Philox words, as Triton device functions: normals, signs, rounding bits.

An octet is the 8 elements 8o .. 8o+7 of a stream. Each function takes one 64-bit octet index for
every 8 elements of a block and returns the block's values in element order: a thread that computes an
octet has the values of 8 neighbouring elements. In a dense kernel for 16-bit tensors that is how memory is
accessed, 16 bytes a thread, and no value leaves its thread. fp32 and float64 are accessed 4 and 2 elements a
thread, so that values go to other threads through shared memory: 4 and 8 stores, as many loads, and 3 and 7
barriers a program (Triton 3.9, sm_80, 90 and 100, from the PTX).

Only fp32 add, mul, explicit fma, `sqrt_rn` and integer operations occur; compiled with
`enable_fp_fusion=False` the bits equal those of every other backend.
"""

# mypy: allow-untyped-defs
# (annotations of device functions are Triton's, and only on arguments that need one)

import triton
import triton.language as tl

from .philox import block_words

# -2 ln u = (405 - t) * LN + P(d) * d, and sin and cos of (pi/4) x on [-1, 1)
LN = tl.constexpr(float.fromhex("0x1.62e43p+0"))
P0 = tl.constexpr(float.fromhex("-0x1.000048p+0"))
P1 = tl.constexpr(float.fromhex("0x1.ff6650p-3"))
P2 = tl.constexpr(float.fromhex("-0x1.62fad6p-4"))
P3 = tl.constexpr(float.fromhex("0x1.0a6c26p-6"))
P4 = tl.constexpr(float.fromhex("-0x1.71c37cp-5"))
P5 = tl.constexpr(float.fromhex("-0x1.edf9ccp-6"))
P6 = tl.constexpr(float.fromhex("-0x1.31e07cp-6"))
SIN0 = tl.constexpr(0.785394251)
SIN1 = tl.constexpr(-0.0807140023)
SIN2 = tl.constexpr(0.00242710602)
COS1 = tl.constexpr(-0.308424264)
COS2 = tl.constexpr(0.0158499163)
COS3 = tl.constexpr(-0.000318880688)

LANE_Z = tl.constexpr(0)
LANE_ROUNDING = tl.constexpr(2)


@triton.jit
def as_float(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def as_bits(value):
    return value.to(tl.uint32, bitcast=True)


@triton.jit
def radius(w):
    """sqrt(-2 ln u), u = (k + 1/2) / 2**23 with k the low 23 bits of w."""
    f = as_float((w & 0x007FFFFF) | 0x4B000000) - 8388607.5  # exact: k + 1/2
    bits = as_bits(f)
    t = as_float(((bits >> 8) & 0x007F8000) | 0x43800000)  # 256 + biased exponent of f
    d = as_float((bits & 0x007FFFFF) | 0x3F800000) - 2.0  # mantissa - 2
    e = (405.0 - t) * LN
    q = tl.fma(d, P6, P5)
    q = tl.fma(q, d, P4)
    q = tl.fma(q, d, P3)
    q = tl.fma(q, d, P2)
    q = tl.fma(q, d, P1)
    q = tl.fma(q, d, P0)
    return tl.sqrt_rn(tl.fma(q, d, e))


@triton.jit
def normal_pair(w, partner):
    """The two normals of word w; the partner word lends 16 bits of the angle."""
    r = radius(w)
    x = as_float(((w >> 7) & 0x007F0000) | (partner & 0xFFFF) | 0x40000000) - 3.0
    y = x * x
    s = tl.fma(tl.fma(y, SIN2, SIN1), y, SIN0) * x
    c = tl.fma(tl.fma(tl.fma(y, COS3, COS2), y, COS1), y, 1.0)
    c = as_float(as_bits(c) ^ (w & 0x80000000))
    swap = (w & 0x40000000) != 0
    return r * tl.where(swap, s, c), r * tl.where(swap, c, s)


@triton.jit
def in_word_order(w0, w1, w2, w3):
    return tl.join(tl.join(w0, w2), tl.join(w1, w3))  # [OCTETS, 2, 2]: word 2i + k at [:, i, k]


@triton.jit
def gaussian(octet, seed, stream, lane, BLOCK: tl.constexpr):
    """Normals of the octets, fp32 [BLOCK]: word j of octet o gives its elements 2j, 2j + 1."""
    w0, w1, w2, w3 = block_words(octet, seed, stream, lane)
    z0, z1 = normal_pair(in_word_order(w0, w1, w2, w3), in_word_order(w1, w0, w3, w2))
    return tl.reshape(tl.join(z0, z1), (BLOCK,))


@triton.jit
def rademacher(octet, seed, stream, lane, BLOCK: tl.constexpr):
    """Signs, fp32 [BLOCK]: element e reads bit e & 31 of word (e >> 5) & 3 of block e >> 7.

    Every octet encrypts its own counter although 16 share one: that costs what `gaussian` spends on
    Philox, well within the time the memory takes, and needs no exchange between threads.
    """
    w0, w1, w2, w3 = block_words(octet >> 4, seed, stream, lane)
    part = octet.to(tl.uint32)
    word = tl.where((part & 8) == 0, tl.where((part & 4) == 0, w0, w1), tl.where((part & 4) == 0, w2, w3))
    bits = word >> ((part & 3) * 8)
    bits = tl.join(bits, bits >> 4)
    bits = tl.join(bits, bits >> 2)
    bits = tl.join(bits, bits >> 1)  # [OCTETS, 2, 2, 2]: element k's bit lowest
    return tl.reshape(as_float(((bits & 1) << 31) | 0x3F800000), (BLOCK,))


@triton.jit
def draw(octet, seed, stream, lane, GAUSSIAN: tl.constexpr, BLOCK: tl.constexpr):
    if GAUSSIAN:
        z = gaussian(octet, seed, stream, lane, BLOCK)
    else:
        z = rademacher(octet, seed, stream, lane, BLOCK)
    return z


@triton.jit
def rounding_bits(octet, seed, stream, BLOCK: tl.constexpr):
    """16 bits an element from lane 2, uint32 [BLOCK]: low half of word j to element 8o + 2j."""
    w0, w1, w2, w3 = block_words(octet, seed, stream, LANE_ROUNDING)
    words = in_word_order(w0, w1, w2, w3)
    return tl.reshape(tl.join(words & 0xFFFF, words >> 16), (BLOCK,))
