// Vector operations in the compiler's own vector extensions: any CPU that GCC or Clang targets.
// Defines the interface that vec_avx2.h and vec_avx512.h fill with intrinsics.
//
//   F, W      kLanes fp32 values / 32-bit words, in element order
//   Wide      kLanes / 2 Philox blocks: one 32-bit state word in the low half of each 64-bit lane.
//             The high half is never read: multiplies ignore it, so nothing cleans it.
//   P         what the stream's polynomials are computed in: `step` is a fused multiply-add, `last_step` the last
//             of a polynomial, `widen` and `constant` bring values in
//
// One thread of an AMD EPYC (Zen 3), Nov 2026, in 1e9 elements of fp32 a second, in the caches: 0.06 with fmaf()
// element by element; 0.15 with shuffles, SSE2's multiply and fused multiply-adds through double, rounded to odd;
// 0.20 with roundings of the polynomials in integers and a check of what double rounds in place of rounding to odd;
// 0.24 with two groups and keys that are spread over vectors once a tile. PyTorch's randn and add_: 0.24.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "../core/perturb.h"

// four of the eight elements of a and b, numbered 0 to 3 and 4 to 7
#if defined(__clang__) || __GNUC__ >= 12
#define ZK_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define ZK_SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (Int){i, j, k, l})
#endif

namespace zk {
namespace {

struct Portable {
  static constexpr int kLanes = 4;
  static constexpr int kGroups = 2;  // Philox groups in flight
  typedef float F __attribute__((vector_size(16)));
  typedef uint32_t W __attribute__((vector_size(16)));
  typedef uint64_t Wide __attribute__((vector_size(16)));
  typedef double D2 __attribute__((vector_size(16)));
  typedef int32_t Int __attribute__((vector_size(16)));

  // --- words
  ZK_INLINE W word(uint32_t v) { return W{v, v, v, v}; }
  ZK_INLINE W as_words(F v) { return reinterpret_cast<W>(v); }
  ZK_INLINE F as_floats(W v) { return reinterpret_cast<F>(v); }
  ZK_INLINE W and_or(W a, uint32_t mask, uint32_t set) { return (a & mask) | set; }
  template <int N>
  ZK_INLINE W shift_right(W a) {
    return a >> N;
  }
  template <int N>
  ZK_INLINE W shift_left(W a) {
    return a << N;
  }
  ZK_INLINE W shift_left_each(W a, W n) { return a << n; }
  ZK_INLINE W add(W a, W b) { return a + b; }
  ZK_INLINE W and_(W a, W b) { return a & b; }
  ZK_INLINE W or_(W a, W b) { return a | b; }
  ZK_INLINE W xor_masked(W a, W b, uint32_t mask) { return a ^ (b & mask); }
  ZK_INLINE W iota() { return W{0, 1, 2, 3}; }
  // w[j ^ 1] in the low 16 bits, `high` in the others
  ZK_INLINE W borrow_low_half(W high, W w) { return (high & 0xffff0000u) | (ZK_SHUFFLE(w, w, 1, 0, 3, 2) & 0xffffu); }
  // the upper halves of both, as pairs: `even` in the low halves
  ZK_INLINE W high_halves(W even, W odd) { return (even >> 16) | (odd & 0xffff0000u); }
  // fp32 bits whose upper half is then the nearest bf16, ties to even: + 0x7fff + the lowest bit kept
  ZK_INLINE W round_bias(W u) { return add(add(u, word(0x7fffu)), and_(shift_right<16>(u), word(1u))); }

  // --- Philox
  ZK_INLINE Wide wide(uint64_t v) { return Wide{v, v}; }
  ZK_INLINE Wide wide_iota(uint64_t first) { return Wide{first, first + 1}; }
  ZK_INLINE Wide add_wide(Wide a, uint64_t b) { return a + b; }
  ZK_INLINE Wide multiply(Wide a, uint32_t m) {
#ifdef __SSE2__  // one instruction, where GCC takes three multiplies of 64 bits apart
    return reinterpret_cast<Wide>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), _mm_set1_epi32(static_cast<int>(m))));
#else
    return (a & 0xffffffffu) * m;
#endif
  }
  ZK_INLINE Wide high(Wide product) { return product >> 32; }
  ZK_INLINE Wide xor_wide(Wide a, Wide b) { return a ^ b; }
  using Key = Wide;  // spread over a vector once a tile
  ZK_INLINE Key key(uint32_t k) { return wide(k); }
  ZK_INLINE Wide xor3(Wide a, Wide b, Key key) { return a ^ b ^ key; }
  // Four state words of kLanes / 2 blocks to two vectors of words w0 w1 w2 w3 | w0 w1 w2 w3 | ...
  ZK_INLINE void to_words(Wide c0, Wide c1, Wide c2, Wide c3, W& first, W& second) {
    const W w01 = ZK_SHUFFLE(reinterpret_cast<W>(c0), reinterpret_cast<W>(c1), 0, 4, 2, 6);
    const W w23 = ZK_SHUFFLE(reinterpret_cast<W>(c2), reinterpret_cast<W>(c3), 0, 4, 2, 6);
    first = ZK_SHUFFLE(w01, w23, 0, 1, 4, 5);
    second = ZK_SHUFFLE(w01, w23, 2, 3, 6, 7);
  }

  // --- floats
  ZK_INLINE F broadcast(float v) { return F{v, v, v, v}; }
  ZK_INLINE F mul(F a, F b) { return a * b; }
  ZK_INLINE F add(F a, F b) { return a + b; }
  ZK_INLINE F sub(F a, F b) { return a - b; }
#ifdef __FP_FAST_FMAF
  ZK_INLINE F fma(F a, F b, F c) { return each_fma(a, b, c); }
  using P = F;
  ZK_INLINE P constant(float v) { return broadcast(v); }
  ZK_INLINE P widen(F v) { return v; }
  ZK_INLINE P step(P a, P b, P c) { return fma(a, b, c); }
  ZK_INLINE F last_step(P a, P b, P c) { return fma(a, b, c); }
#else
  // Rounded once, without an instruction for it. The product is exact in double. Rounding the sum to double first
  // matters only where it then seems to lie in the middle between two fp32 numbers, or below the normal ones.
  ZK_INLINE F fma(F a, F b, F c) {
    const P x = widen(a), y = widen(b), z = widen(c);
    const P sum{x.low * y.low + z.low, x.high * y.high + z.high};
    const F rounded = narrow(sum);
    const W middle = in_the_middle(sum.low) | in_the_middle(sum.high);
    const W tiny = reinterpret_cast<W>(reinterpret_cast<Int>(as_words(rounded) & 0x7fffffffu) <= 0x00800000);
    return any(middle | tiny) ? exact_fma(a, b, c) : rounded;
  }

  // --- the polynomials of the stream in double, every step rounded to 24 bits. Their sums are rounded to double
  // first, and in the middle between two fp32 numbers towards zero: that makes no difference for any of the 2^23
  // radii and angles (tests/ops/test_portable.py goes through all)
  struct P {
    D2 low, high;
  };
  ZK_INLINE P constant(float v) { return {D2{v, v}, D2{v, v}}; }
#ifdef __SSE2__
  ZK_INLINE P widen(F v) {
    const __m128 f = reinterpret_cast<__m128>(v);
    return {reinterpret_cast<D2>(_mm_cvtps_pd(f)), reinterpret_cast<D2>(_mm_cvtps_pd(_mm_movehl_ps(f, f)))};
  }
  ZK_INLINE F narrow(P v) {
    return reinterpret_cast<F>(
        _mm_movelh_ps(_mm_cvtpd_ps(reinterpret_cast<__m128d>(v.low)), _mm_cvtpd_ps(reinterpret_cast<__m128d>(v.high))));
  }
#else
  ZK_INLINE P widen(F v) { return {D2{v[0], v[1]}, D2{v[2], v[3]}}; }
  ZK_INLINE F narrow(P v) { return F{float(v.low[0]), float(v.low[1]), float(v.high[0]), float(v.high[1])}; }
#endif
  ZK_INLINE D2 to_24_bits(D2 v) {
    return reinterpret_cast<D2>((reinterpret_cast<Wide>(v) + 0x0fffffffull) & ~0x1fffffffull);
  }
  ZK_INLINE P step(P a, P b, P c) { return {to_24_bits(a.low * b.low + c.low), to_24_bits(a.high * b.high + c.high)}; }
  ZK_INLINE F last_step(P a, P b, P c) { return narrow({a.low * b.low + c.low, a.high * b.high + c.high}); }
#endif

  ZK_INLINE F sqrt(F a) {
#ifdef __SSE2__
    return reinterpret_cast<F>(_mm_sqrt_ps(reinterpret_cast<__m128>(a)));
#else
    return F{std::sqrt(a[0]), std::sqrt(a[1]), std::sqrt(a[2]), std::sqrt(a[3])};
#endif
  }
  ZK_INLINE F div(F a, F b) { return a / b; }
  // b where either is NaN, as the x86 instructions have it
  ZK_INLINE F max(F a, F b) { return pick(a > b, a, b); }
  ZK_INLINE F min(F a, F b) { return pick(a < b, a, b); }
  // bit `Bit` of w set ? yes : no
  template <int Bit>
  ZK_INLINE F select(W w, F yes, F no) {
    const W mask = W{} - ((w >> Bit) & 1u);
    return as_floats((mask & as_words(yes)) | (~mask & as_words(no)));
  }
  ZK_INLINE F select_below(F a, F bound, F yes, F no) {
    const W mask = reinterpret_cast<W>(a < bound);
    return as_floats((mask & as_words(yes)) | (~mask & as_words(no)));
  }
  ZK_INLINE F to_float(W v) { return __builtin_convertvector(reinterpret_cast<Int>(v), F); }
  ZK_INLINE F truncate(F v) { return __builtin_convertvector(__builtin_convertvector(v, Int), F); }
  // 22 - floor(log2 f) for positive normal f: the exponent term of -2 ln u
  ZK_INLINE F exponent_term(F f) {
    return broadcast(405.0f) - as_floats(and_or(as_words(f) >> 8, 0x007f8000u, 0x43800000u));
  }
  // a0 a1 a2 a3, b0 b1 b2 b3 -> a0 b0 a1 b1, a2 b2 a3 b3
  ZK_INLINE void interleave(F a, F b, F& low, F& high) {
    low = ZK_SHUFFLE(a, b, 0, 4, 1, 5);
    high = ZK_SHUFFLE(a, b, 2, 6, 3, 7);
  }

  // --- memory
  ZK_INLINE F load(const float* p) {
    F v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  ZK_INLINE void store(float* p, F v) { std::memcpy(p, &v, sizeof v); }
  ZK_INLINE void stream(float* p, F v) { store(p, v); }  // past the caches, p aligned to a vector
  ZK_INLINE void end_stream() {}                         // before anyone else may read what was streamed
  // the first n < kLanes elements; nothing beyond them is touched, the rest of the vector is zero
  ZK_INLINE F load_part(const float* p, int n) {
    F v{};
    for (int i = 0; i < n; ++i) v[i] = p[i];
    return v;
  }
  ZK_INLINE void store_part(float* p, F v, int n) {
    for (int i = 0; i < n; ++i) p[i] = v[i];
  }
  ZK_INLINE F load_bf16(const uint16_t* p) { return as_floats(load_shorts(p) << 16); }
  ZK_INLINE void store_high_halves(uint16_t* p, W v) { store_shorts(p, v >> 16); }
  // half_to_float() and half_nearest() of core/perturb.h in vectors; what is not normal in fp16 goes by itself
  ZK_INLINE F load_half(const uint16_t* p) {
    const W h = load_shorts(p), shifted = (h & 0x7fffu) << 13, exponent = shifted & 0x0f800000u;
    const W normal = (shifted + 0x38000000u) | (h & 0x8000u) << 16;
    if (!any(where(exponent == 0u) | where(exponent == 0x0f800000u))) return as_floats(normal);
    const W special = where(exponent == 0x0f800000u) & 0x38000000u;  // infinities and NaN
    const F tiny = as_floats(shifted + 0x38800000u) - broadcast(0x1p-14f);
    const W is_tiny = where(exponent == 0u);
    const W magnitude = (is_tiny & as_words(tiny)) | (~is_tiny & (shifted + 0x38000000u + special));
    return as_floats(magnitude | (h & 0x8000u) << 16);
  }
  ZK_INLINE void store_half(uint16_t* p, F v) {
    const W u = as_words(v), magnitude = u & 0x7fffffffu;
    const W kept = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
    const W sign = (u >> 16) & 0x8000u;
    if (!any(where(magnitude - 0x38800000u >= 0x0f000000u))) return store_shorts(p, kept | sign);
    const W tiny = as_words(as_floats(magnitude) + broadcast(0.5f)) - 0x3f000000u;
    const W nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
    const W is_tiny = where(magnitude < 0x38800000u), is_large = where(magnitude >= 0x47800000u);
    const W is_nan = where(magnitude > 0x7f800000u);
    W half = (is_tiny & tiny) | (~is_tiny & kept);
    half = (is_large & 0x7c00u) | (~is_large & half);
    half = (is_nan & nan) | (~is_nan & half);
    store_shorts(p, half | sign);
  }
  // 2 * kLanes 16-bit values as kLanes words (little endian: even elements in the low halves)
  ZK_INLINE W load_pairs(const uint16_t* p) {
    W v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  ZK_INLINE void store_pairs(uint16_t* p, W v) { std::memcpy(p, &v, sizeof v); }

 private:
  // words of doubles whose 29 bits below fp32's are 1000...0
  ZK_INLINE W in_the_middle(D2 v) {
    return reinterpret_cast<W>((reinterpret_cast<W>(v) & W{0x1fffffffu, 0, 0x1fffffffu, 0}) ==
                               W{0x10000000u, 1, 0x10000000u, 1});
  }
  static __attribute__((noinline)) F exact_fma(F a, F b, F c) { return each_fma(a, b, c); }
  ZK_INLINE bool any(W mask) {
#ifdef __SSE2__
    return _mm_movemask_epi8(reinterpret_cast<__m128i>(mask)) != 0;
#else
    return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
  }
  ZK_INLINE F each_fma(F a, F b, F c) {
    return F{std::fmaf(a[0], b[0], c[0]), std::fmaf(a[1], b[1], c[1]), std::fmaf(a[2], b[2], c[2]),
             std::fmaf(a[3], b[3], c[3])};
  }
  template <class Mask>
  ZK_INLINE F pick(Mask mask, F yes, F no) {
    const W m = reinterpret_cast<W>(mask);
    return as_floats((m & as_words(yes)) | (~m & as_words(no)));
  }
  typedef uint16_t Shorts __attribute__((vector_size(8)));
  ZK_INLINE W load_shorts(const uint16_t* p) {
    Shorts v;
    std::memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, W);
  }
  ZK_INLINE void store_shorts(uint16_t* p, W v) {
    const Shorts shorts = __builtin_convertvector(v, Shorts);
    std::memcpy(p, &shorts, sizeof shorts);
  }
  template <class Mask>
  ZK_INLINE W where(Mask mask) {
    return reinterpret_cast<W>(mask);
  }
};

}  // namespace
}  // namespace zk
