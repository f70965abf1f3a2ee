// zk-v1 standard normals: one 32-bit Philox word gives two, by Box-Muller in IEEE fp32 arithmetic.
//
//   u = (k + 1/2) / 2^23,  k = low 23 bits of w          r = sqrt(-2 ln u)
//   angle: top 2 bits of w pick the quadrant, the next 7 and 16 bits borrowed from the partner word
//   the position inside it (without the borrowed bits the marginal CDF is off by 6.6e-4 near 0)
//   (z0, z1) = r (cos, sin), each rotated by the quadrant
//
// Only add, mul, fma, a correctly rounded sqrt and integer operations occur, so every backend
// agrees bit for bit. Compile with contraction off (-ffp-contract=off, --fmad=false).
// Measured exhaustively over all radii and angles: |dr| <= 6.4e-7, |d sin|, |d cos| <= 6e-7, |z| <= 5.768.
#pragma once

#include <cmath>
#include <cstring>

#include "philox.h"
#ifdef __CUDACC__
#include "../cuda/sqrt.cuh"
#endif

namespace zk {

// -2 ln u = (405 - t) * kLn + P(d) * d,  t = 256 + biased exponent of f = u * 2^23,  d = mantissa - 2
constexpr float kLn = 0x1.62e43p+0f;
constexpr float kLogP0 = -0x1.000048p+0f;
constexpr float kLogP1 = 0x1.ff6650p-3f;
constexpr float kLogP2 = -0x1.62fad6p-4f;
constexpr float kLogP3 = 0x1.0a6c26p-6f;
constexpr float kLogP4 = -0x1.71c37cp-5f;
constexpr float kLogP5 = -0x1.edf9ccp-6f;
constexpr float kLogP6 = -0x1.31e07cp-6f;
// sin and cos of (pi/4) x on [-1, 1)
constexpr float kSin0 = 0.785394251f;
constexpr float kSin1 = -0.0807140023f;
constexpr float kSin2 = 0.00242710602f;
constexpr float kCos1 = -0.308424264f;
constexpr float kCos2 = 0.0158499163f;
constexpr float kCos3 = -0.000318880688f;

ZK_INLINE uint32_t float_bits(float f) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(f);
#else
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return u;
#endif
}

ZK_INLINE float bits_float(uint32_t u) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(u);
#else
  float f;
  std::memcpy(&f, &u, 4);
  return f;
#endif
}

ZK_INLINE float fma_rn(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return std::fmaf(a, b, c);
#endif
}

// (a & mask) | bits
ZK_INLINE uint32_t and_or(uint32_t a, uint32_t mask, uint32_t bits) {
#ifdef __CUDA_ARCH__
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(r) : "r"(a), "r"(mask), "r"(bits));
  return r;
#else
  return (a & mask) | bits;
#endif
}

ZK_INLINE float radius(uint32_t w) {
  const float f = bits_float(and_or(w, 0x007fffffu, 0x4b000000u)) - 8388607.5f;  // exact: k + 1/2
  const uint32_t bits = float_bits(f);
  const float t = bits_float(and_or(bits >> 8, 0x007f8000u, 0x43800000u));
  const float d = bits_float(and_or(bits, 0x007fffffu, 0x3f800000u)) - 2.0f;
  const float e = (405.0f - t) * kLn;
  float q = fma_rn(kLogP6, d, kLogP5);
  q = fma_rn(q, d, kLogP4);
  q = fma_rn(q, d, kLogP3);
  q = fma_rn(q, d, kLogP2);
  q = fma_rn(q, d, kLogP1);
  q = fma_rn(q, d, kLogP0);
  const float r2 = fma_rn(q, d, e);
#ifdef __CUDA_ARCH__
  return sqrt_in_range(r2);
#else
  return std::sqrt(r2);
#endif
}

// The two normals of word w, with `partner` the word it borrows angle bits from (w[j ^ 1]).
ZK_INLINE void normal_pair(uint32_t w, uint32_t partner, float& z0, float& z1) {
  const float r = radius(w);
  const float x = bits_float(and_or(partner, 0xffffu, and_or(w >> 7, 0x007f0000u, 0x40000000u))) - 3.0f;
  const float y = x * x;
  const float s = fma_rn(fma_rn(kSin2, y, kSin1), y, kSin0) * x;
  float c = fma_rn(fma_rn(fma_rn(kCos3, y, kCos2), y, kCos1), y, 1.0f);
  c = bits_float(float_bits(c) ^ (w & 0x80000000u));
#ifdef __CUDA_ARCH__
  float first, second;  // one LOP3 into a predicate; `(w & bit) != 0` compiles to three instructions
  asm("{.reg .pred p; .reg .u32 t; and.b32 t, %4, 0x40000000; setp.ne.u32 p, t, 0;"
      " selp.f32 %0, %2, %3, p; selp.f32 %1, %3, %2, p;}"
      : "=f"(first), "=f"(second)
      : "f"(s), "f"(c), "r"(w));
  z0 = r * first;
  z1 = r * second;
#else
  const bool swap = (w & 0x40000000u) != 0;
  z0 = r * (swap ? s : c);
  z1 = r * (swap ? c : s);
#endif
}

// The eight normals of block b are those of elements 8b .. 8b+7.
ZK_INLINE void normal_block(const uint32_t words[4], float z[8]) {
  for (int j = 0; j < 4; ++j) normal_pair(words[j], words[j ^ 1], z[2 * j], z[2 * j + 1]);
}

}  // namespace zk
