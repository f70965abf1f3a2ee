"""Activations of an adapter as Triton device functions: fp32, the formulas of `csrc/core/tt.h`.

Exponentials are `tl.exp` (2 ulp on a device); the polynomials are those that every backend uses.
"""

# mypy: allow-untyped-defs
# (annotations of device functions are Triton's, and only on arguments that need one)

import triton
import triton.language as tl

T0 = tl.constexpr(float.fromhex("-0x1.555534p-2"))
T1 = tl.constexpr(float.fromhex("0x1.110768p-3"))
T2 = tl.constexpr(float.fromhex("-0x1.b84448p-5"))
T3 = tl.constexpr(float.fromhex("0x1.5256cep-6"))
T4 = tl.constexpr(float.fromhex("-0x1.76abf6p-8"))
G0 = tl.constexpr(float.fromhex("0x1.82b4bcp-4"))
G1 = tl.constexpr(float.fromhex("0x1.5cf97ep-2"))
G2 = tl.constexpr(float.fromhex("0x1.fd7510p-2"))
G3 = tl.constexpr(float.fromhex("0x1.25b604p-1"))
G4 = tl.constexpr(float.fromhex("0x1.f9b248p-2"))
G5 = tl.constexpr(float.fromhex("0x1.1673bap-2"))
G6 = tl.constexpr(float.fromhex("0x1.0811f0p-5"))
G7 = tl.constexpr(float.fromhex("-0x1.58d4e0p-4"))
G8 = tl.constexpr(float.fromhex("-0x1.63ac6ap-5"))
G9 = tl.constexpr(float.fromhex("0x1.1617cep-5"))


@triton.jit
def tanh(x):
    size, square = tl.abs(x), x * x
    q = tl.fma(square, T4, T3)
    q = tl.fma(q, square, T2)
    q = tl.fma(q, square, T1)
    q = tl.fma(q, square, T0)
    small = tl.fma(x * square, q, x)
    # beyond 44 the exponential would overflow and the value is 1
    large = 1.0 - 2.0 / (tl.exp(2.0 * tl.minimum(size, 44.0)) + 1.0)
    return tl.where(size < 0.625, small, tl.where(x < 0, -large, tl.where(x == x, large, x)))


@triton.jit
def gelu(x):
    """x Phi(x), the exact form: Phi(-a) = e^(-a^2/2) q(1 / (1 + a/4))."""
    size = tl.abs(x)
    t = 1.0 / tl.fma(size, 0.25, 1.0) - 0.5
    q = tl.fma(t, G9, G8)
    q = tl.fma(q, t, G7)
    q = tl.fma(q, t, G6)
    q = tl.fma(q, t, G5)
    q = tl.fma(q, t, G4)
    q = tl.fma(q, t, G3)
    q = tl.fma(q, t, G2)
    q = tl.fma(q, t, G1)
    q = tl.fma(q, t, G0)
    tail = tl.exp(size * size * -0.5) * q
    return x * tl.where(x < 0, tail, 1.0 - tail)


@triton.jit
def activate(x, NAME: tl.constexpr):
    if NAME == "relu":
        y = tl.where(x < 0, 0.0, x)
    elif NAME == "gelu":
        y = gelu(x)
    elif NAME == "silu":
        y = x / (1.0 + tl.exp(-tl.maximum(x, -87.0)))
    elif NAME == "tanh":
        y = tanh(x)
    else:
        y = x
    return y
