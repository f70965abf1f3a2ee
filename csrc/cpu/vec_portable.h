// Vector operations in the compiler's own vector extensions: any CPU that GCC or Clang targets.
// Defines the interface that vec_avx2.h and vec_avx512.h fill with intrinsics.
//
//   F, W      kLanes fp32 values / 32-bit words, in element order
//   Wide      kLanes / 2 Philox blocks: one 32-bit state word in the low half of each 64-bit lane.
//             The high half is never read: multiplies ignore it, so nothing cleans it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../core/perturb.h"

namespace zk {
namespace {

struct Portable {
  static constexpr int kLanes = 4;
  static constexpr int kGroups = 1;  // Philox groups in flight
  typedef float F __attribute__((vector_size(16)));
  typedef uint32_t W __attribute__((vector_size(16)));
  typedef uint64_t Wide __attribute__((vector_size(16)));

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
  ZK_INLINE W borrow_low_half(W high, W w) { return (high & 0xffff0000u) | (W{w[1], w[0], w[3], w[2]} & 0xffffu); }
  // the upper halves of both, as pairs: `even` in the low halves
  ZK_INLINE W high_halves(W even, W odd) { return (even >> 16) | (odd & 0xffff0000u); }
  // fp32 bits whose upper half is then the nearest bf16, ties to even: + 0x7fff + the lowest bit kept
  ZK_INLINE W round_bias(W u) { return add(add(u, word(0x7fffu)), and_(shift_right<16>(u), word(1u))); }

  // --- Philox
  ZK_INLINE Wide wide(uint64_t v) { return Wide{v, v}; }
  ZK_INLINE Wide wide_iota(uint64_t first) { return Wide{first, first + 1}; }
  ZK_INLINE Wide add_wide(Wide a, uint64_t b) { return a + b; }
  ZK_INLINE Wide multiply(Wide a, uint32_t m) { return (a & 0xffffffffu) * m; }
  ZK_INLINE Wide high(Wide product) { return product >> 32; }
  ZK_INLINE Wide xor_wide(Wide a, Wide b) { return a ^ b; }
  ZK_INLINE Wide xor3(Wide a, Wide b, uint32_t key) { return a ^ b ^ static_cast<uint64_t>(key); }
  // Four state words of kLanes / 2 blocks to two vectors of words w0 w1 w2 w3 | w0 w1 w2 w3 | ...
  ZK_INLINE void to_words(Wide c0, Wide c1, Wide c2, Wide c3, W& first, W& second) {
    first = W{uint32_t(c0[0]), uint32_t(c1[0]), uint32_t(c2[0]), uint32_t(c3[0])};
    second = W{uint32_t(c0[1]), uint32_t(c1[1]), uint32_t(c2[1]), uint32_t(c3[1])};
  }

  // --- floats
  ZK_INLINE F broadcast(float v) { return F{v, v, v, v}; }
  ZK_INLINE F mul(F a, F b) { return a * b; }
  ZK_INLINE F add(F a, F b) { return a + b; }
  ZK_INLINE F sub(F a, F b) { return a - b; }
  ZK_INLINE F fma(F a, F b, F c) {
    return F{std::fmaf(a[0], b[0], c[0]), std::fmaf(a[1], b[1], c[1]), std::fmaf(a[2], b[2], c[2]),
             std::fmaf(a[3], b[3], c[3])};
  }
  ZK_INLINE F sqrt(F a) { return F{std::sqrt(a[0]), std::sqrt(a[1]), std::sqrt(a[2]), std::sqrt(a[3])}; }
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
  ZK_INLINE F to_float(W v) { return F{float(v[0]), float(v[1]), float(v[2]), float(v[3])}; }
  ZK_INLINE F truncate(F v) { return F{float(int(v[0])), float(int(v[1])), float(int(v[2])), float(int(v[3]))}; }
  // 22 - floor(log2 f) for positive normal f: the exponent term of -2 ln u
  ZK_INLINE F exponent_term(F f) {
    return broadcast(405.0f) - as_floats(and_or(as_words(f) >> 8, 0x007f8000u, 0x43800000u));
  }
  // a0 a1 a2 a3, b0 b1 b2 b3 -> a0 b0 a1 b1, a2 b2 a3 b3
  ZK_INLINE void interleave(F a, F b, F& low, F& high) {
    low = F{a[0], b[0], a[1], b[1]};
    high = F{a[2], b[2], a[3], b[3]};
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
  ZK_INLINE F load_bf16(const uint16_t* p) { return as_floats(W{p[0], p[1], p[2], p[3]} << 16); }
  ZK_INLINE void store_high_halves(uint16_t* p, W v) {
    for (int i = 0; i < 4; ++i) p[i] = static_cast<uint16_t>(v[i] >> 16);
  }
  ZK_INLINE F load_half(const uint16_t* p) { return F{half(p[0]), half(p[1]), half(p[2]), half(p[3])}; }
  ZK_INLINE void store_half(uint16_t* p, F v) {
    for (int i = 0; i < 4; ++i) p[i] = to_half(v[i]);
  }
  // 2 * kLanes 16-bit values as kLanes words (little endian: even elements in the low halves)
  ZK_INLINE W load_pairs(const uint16_t* p) {
    W v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  ZK_INLINE void store_pairs(uint16_t* p, W v) { std::memcpy(p, &v, sizeof v); }

 private:
  template <class Mask>
  ZK_INLINE F pick(Mask mask, F yes, F no) {
    const W m = reinterpret_cast<W>(mask);
    return as_floats((m & as_words(yes)) | (~m & as_words(no)));
  }
  ZK_INLINE float half(uint16_t h) { return half_to_float(h); }
  ZK_INLINE uint16_t to_half(float f) { return half_nearest(f); }
};

}  // namespace
}  // namespace zk
